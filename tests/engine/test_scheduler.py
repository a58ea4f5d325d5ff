from __future__ import annotations

import pytest
from sequences import arrive, scheduler, sequence

from pagewire.engine.scheduler import Plan, Scheduler
from pagewire.engine.sequence import Sequence
from pagewire.engine.turns import MAX_SKIPS


def spans(plan: Plan) -> list[tuple[int, int]]:
    return [(work.start, work.end) for work in plan.work]


def seqs(plan: Plan) -> list[Sequence]:
    return [work.seq for work in plan.work]


def step(engine: Scheduler) -> Plan:
    """Compute a plan and append a token wherever one is sampled."""
    plan = engine.schedule()
    sampling = [work.seq for work in plan.work if work.samples]
    engine.advance(plan)
    for seq in sampling:
        seq.tokens.append(1)
    return plan


def admit(engine: Scheduler, *lengths: int) -> list[Sequence]:
    """Admit fresh prompts of these lengths, no two with a common prefix."""
    admitted = [sequence([9 + i] * n, max_len=engine.config.max_model_len) for i, n in enumerate(lengths)]
    for seq in admitted:
        engine.admit(seq)
    return admitted


def test_an_idle_scheduler_plans_nothing() -> None:
    engine = scheduler()
    assert engine.schedule() == Plan([], [])
    assert not engine.has_work


def test_a_prompt_is_computed_in_chunks_of_the_budget() -> None:
    engine = scheduler(budget=4)
    admit(engine, 10)
    assert [spans(step(engine)) for _ in range(4)] == [[(0, 4)], [(4, 8)], [(8, 10)], [(10, 11)]]


def test_only_the_last_chunk_samples() -> None:
    engine = scheduler(budget=4)
    admit(engine, 6)
    assert not engine.schedule().work[0].samples
    engine.running[0].num_computed = 4
    assert engine.schedule().work[0].samples


def test_decodes_come_before_prefills() -> None:
    engine = scheduler(budget=8)
    first, second = admit(engine, 4, 30)
    step(engine)
    plan = step(engine)
    assert seqs(plan) == [first, second]
    assert spans(plan) == [(4, 5), (4, 11)]


def test_a_decode_that_started_later_still_comes_before_a_prefill() -> None:
    engine = scheduler(budget=8)
    (long,) = admit(engine, 30)
    step(engine)
    decode = arrive(engine, sequence([1] * 6))
    assert seqs(engine.schedule()) == [decode, long]


def test_beside_decodes_no_more_of_prompts_is_computed_than_they_are_to_wait_for() -> None:
    engine = scheduler(num_pages=32, budget=16, mixed=3)
    first, second, _ = admit(engine, 4, 30, 20)
    assert spans(step(engine)) == [(0, 4), (0, 12)]  # nobody decodes yet
    plan = step(engine)
    assert seqs(plan) == [first, second]
    assert spans(plan) == [(4, 5), (12, 15)]
    engine.remove(first)
    assert spans(step(engine)) == [(15, 30), (0, 1)]


def test_prompts_start_in_order_and_nobody_overtakes() -> None:
    engine = scheduler(num_pages=8, budget=64)
    first, big, _small = admit(engine, 12, 24, 2)
    assert seqs(step(engine)) == [first]
    assert engine.waiting[0] is big


def test_a_short_prompt_does_not_wait_for_a_long_one_to_be_read() -> None:
    engine = scheduler(num_pages=64, budget=16)
    long, short = admit(engine, 200, 10)
    assert seqs(step(engine)) == [short, long]


def test_a_short_prompt_that_comes_later_is_read_in_the_next_step() -> None:
    engine = scheduler(num_pages=64, budget=16, caching=False)
    (long,) = admit(engine, 200)
    step(engine)
    (short,) = admit(engine, 10)
    plan = step(engine)
    assert (seqs(plan), spans(plan)) == ([short, long], [(0, 8), (16, 24)])


def test_of_running_prompts_the_shortest_gets_its_tokens_first() -> None:
    engine = scheduler(num_pages=128, budget=16)
    long, middle, _ = admit(engine, 200, 40, 10)
    step(engine)
    assert engine.running[1:] == [long]
    plan = step(engine)
    assert (seqs(plan), spans(plan)[1:]) == ([engine.running[0], middle, long], [(0, 7), (6, 14)])


def test_the_oldest_prompt_gets_a_part_of_every_step() -> None:
    engine = scheduler(num_pages=128, budget=16)
    (long,) = admit(engine, 200)
    step(engine)
    for number in range(5):
        for seq in admit(engine, 12):
            seq.tokens[0] = number
        assert any(work.seq is long and work.end - work.start >= 4 for work in step(engine).work)
        for seq in [seq for seq in engine.running if seq is not long]:
            if (lease := engine.remove(seq)) is not None:
                engine.pool.release(lease)


def test_what_a_short_prompt_leaves_of_a_step_goes_to_the_long_one() -> None:
    engine = scheduler(num_pages=64, budget=16)
    admit(engine, 200, 3)
    assert sum(work.end - work.start for work in step(engine).work) == 16


def test_one_that_waits_is_passed_only_so_often() -> None:
    engine = scheduler(num_pages=512, budget=16, caching=False)
    ahead, behind = admit(engine, 300, 400)
    step(engine)
    for passed in range(MAX_SKIPS + 2):
        (short,) = admit(engine, 10)
        assert (short in seqs(step(engine))) == (passed < MAX_SKIPS)
        if (lease := engine.remove(short)) is not None:
            engine.pool.release(lease)
    assert (ahead.skipped, behind.skipped) == (0, MAX_SKIPS)


def test_nobody_passes_a_preempted_sequence() -> None:
    engine = scheduler(num_pages=64, budget=16)
    back = sequence([1] * 100)
    back.preemptions = 1
    engine.admit(back)
    admit(engine, 2)
    assert seqs(step(engine)) == [back]


def test_no_more_than_max_num_seqs_run() -> None:
    engine = scheduler(seqs=2)
    admit(engine, 2, 2, 2)
    assert len(engine.schedule().work) == 2


def test_a_prefix_hit_is_not_computed_again() -> None:
    engine = scheduler()
    engine.admit(sequence(list(range(10))))
    step(engine)
    again = sequence([*range(9), 77])
    engine.admit(again)
    assert spans(engine.schedule())[-1] == (8, 10)
    assert again.prefix_hit == 8
    assert engine.cache.stats.hit == 8


def test_a_scored_prompt_is_computed_in_full_and_wants_every_row() -> None:
    engine = scheduler()
    engine.admit(sequence(list(range(10))))
    step(engine)
    engine.admit(sequence(list(range(10)), prompt_logprobs=0))
    work = engine.schedule().work[-1]
    assert (work.start, work.end, work.logit_rows) == (0, 10, 10)


def test_a_prompt_is_not_scored_again_once_there_is_output() -> None:
    engine = scheduler()
    engine.admit(sequence(list(range(10)), prompt_logprobs=0))
    step(engine)
    assert engine.schedule().work[0].logit_rows == 1


def test_an_arrived_sequence_decodes_at_once() -> None:
    engine = scheduler()
    seq = arrive(engine, sequence([1] * 9))
    assert spans(engine.schedule()) == [(8, 9)]
    assert engine.running == [seq]


def test_an_arrived_sequence_goes_before_fresh_ones() -> None:
    engine = scheduler(seqs=1)
    admit(engine, 4)
    seq = arrive(engine, sequence([1] * 9))
    assert seqs(engine.schedule()) == [seq]


def test_an_arrived_sequence_waits_for_a_place() -> None:
    engine = scheduler(seqs=1)
    first, second = (arrive(engine, sequence([1] * 9)) for _ in range(2))
    assert seqs(engine.schedule()) == [first]
    assert list(engine.arrived) == [second]


def crowd() -> tuple[Scheduler, Sequence, Sequence]:
    """Two decodes that hold all four pages; in the second step the first one needs one more."""
    engine = scheduler(num_pages=4, caching=False)
    return engine, arrive(engine, sequence([1] * 8)), arrive(engine, sequence([2] * 7))


def test_the_latest_gives_up_its_pages() -> None:
    engine, first, second = crowd()
    assert seqs(step(engine)) == [first, second]
    plan = step(engine)
    assert (seqs(plan), plan.preempted) == ([first], [second])
    assert (second.lease, second.num_computed, second.preemptions) == (None, 0, 1)


def test_a_preempted_sequence_goes_before_all_that_wait() -> None:
    engine, _first, second = crowd()
    fresh = admit(engine, 4)
    for _ in range(2):
        step(engine)
    assert list(engine.waiting) == [second, *fresh]


def test_a_preempted_sequence_computes_its_output_again() -> None:
    engine, first, second = crowd()
    for _ in range(2):
        step(engine)
    assert second.num_output == 1
    if (lease := engine.remove(first)) is not None:
        engine.pool.release(lease)
    assert spans(engine.schedule()) == [(0, 8)]


def test_one_that_has_arrived_but_does_not_run_gives_up_its_pages_first() -> None:
    engine = scheduler(num_pages=5, seqs=2, caching=False)
    first, second = arrive(engine, sequence([1] * 8)), arrive(engine, sequence([2] * 3))
    arrived = arrive(engine, sequence([3] * 7))
    step(engine)
    plan = step(engine)
    assert (seqs(plan), plan.preempted) == ([first, second], [arrived])


def test_a_preempted_sequence_does_not_start_again_in_the_same_step() -> None:
    engine = scheduler(num_pages=5)
    first, twin = arrive(engine, sequence([1] * 9)), arrive(engine, sequence([1] * 12))
    engine.cache.publish(first)  # so that the twin would find room: the prefix, and a page that it gave up
    plan = engine.schedule()
    assert (seqs(plan), plan.preempted) == ([first], [twin])


def test_a_prefix_hit_counts_only_at_the_first_start() -> None:
    engine = scheduler()
    engine.admit(sequence(list(range(10))))
    step(engine)
    again = sequence(list(range(10)))
    again.preemptions = 1
    engine.admit(again)
    assert spans(engine.schedule())[-1] == (8, 10)
    assert (again.prefix_hit, engine.cache.stats.hit) == (0, 0)


def test_a_decode_that_finds_no_page_keeps_its_own() -> None:
    engine = scheduler(num_pages=4)
    first, second = arrive(engine, sequence([1] * 7)), arrive(engine, sequence([2] * 8))
    step(engine)
    plan = step(engine)  # the second needs a page, and is the last to come
    assert (seqs(plan), plan.preempted) == ([first], [])
    assert second.lease is not None


def test_a_place_is_kept_for_a_preempted_sequence() -> None:
    engine = scheduler(num_pages=8, seqs=2)
    running = arrive(engine, sequence([1] * 4, max_len=32))
    back = sequence([2] * 30, max_len=32)
    back.preemptions = 1
    engine.admit(back)
    arrive(engine, sequence([3] * 4, max_len=32))
    other = arrive(engine, sequence([4] * 4, max_len=32))
    step(engine)
    assert engine.running == [running]
    assert engine.arrived[-1] is other


def test_a_newcomer_leaves_a_page_for_each_running_sequence() -> None:
    engine = scheduler(num_pages=4)
    arrive(engine, sequence([1] * 5, max_len=16))
    admit(engine, 8)
    assert len(step(engine).work) == 1


def test_spare_pages_leave_what_running_sequences_need_for_their_tokens_and_one_more() -> None:
    engine = scheduler(num_pages=8, budget=4)
    admit(engine, 12)
    step(engine)
    assert engine.pool.available == 7
    assert engine.spare_pages == 7 - 2 - 1


def test_a_sequence_that_can_never_fit_does_not() -> None:
    engine = scheduler(num_pages=2)
    assert engine.fits(sequence([1] * 4, max_len=8))
    assert not engine.fits(sequence([1] * 4, max_len=9))


@pytest.mark.parametrize("state", ["waiting", "arrived", "running"])
def test_remove_works_in_every_state(state: str) -> None:
    engine = scheduler(seqs=1)
    seq = sequence([1] * 6)
    if state == "arrived":
        arrive(engine, seq)
    else:
        engine.admit(seq)
    if state == "running":
        step(engine)
    lease = engine.remove(seq)
    assert (lease is not None) == (state != "waiting")
    assert not engine.has_work


def test_removing_an_unknown_sequence_gives_no_lease() -> None:
    assert scheduler().remove(sequence([1])) is None


def test_queued_tokens_count_what_is_to_compute_before_sampling() -> None:
    engine = scheduler(budget=6, seqs=2)
    admit(engine, 4, 10, 5)
    step(engine)
    assert engine.queued_tokens == 8 + 5


def test_the_counts_tell_who_waits() -> None:
    engine = scheduler(seqs=1)
    admit(engine, 2, 2)
    step(engine)
    arrive(engine, sequence([1] * 6))
    assert (engine.num_running, engine.num_waiting, len(engine.sequences())) == (1, 2, 3)
