from __future__ import annotations

from kv_transfer import TransferId
from pagewire.messages import DecodeTarget, Epoch, NodeId, PrefillRequest, RequestId
from pagewire.priority import AGE_S
from pagewire.sampling import SamplingParams
from prefill_node.jobs import Job
from prefill_node.turns import due

BATCH = 100


def job(name: str, tokens: int = 10, taken: float = 0.0, priority: int = 0, address: str = "d") -> Job:
    target = DecodeTarget(NodeId("d"), Epoch("e"), address)
    prompt = [1] * tokens
    request = PrefillRequest(
        RequestId(name), 0, [0], prompt, tokens, SamplingParams(), 0, "", 60_000, target, priority
    )
    return Job.taken_in(NodeId("r"), request, taken)


def reserving(tokens: int, address: str = "d") -> Job:
    made = job("reserving", tokens, address=address)
    made.transfer = TransferId(1)
    return made


def names(*jobs: Job, computing: tuple[int, ...] = ()) -> list[str]:
    return [each.request.request for each in due(jobs, computing, BATCH)]


def test_first_come_first_served() -> None:
    assert names(job("a"), job("b", taken=0.1), job("c", taken=0.2)) == ["a", "b", "c"]


def test_a_short_prompt_goes_before_a_long_one_that_came_shortly_before() -> None:
    assert names(job("long", 1000), job("short", 10, taken=1.0)) == ["short", "long"]


def test_a_long_prompt_that_has_waited_goes_before_a_short_one() -> None:
    assert names(job("long", 1000), job("short", 10, taken=3.0)) == ["long", "short"]


def test_the_urgent_go_first() -> None:
    assert names(job("usual"), job("urgent", taken=1.0, priority=-1)) == ["urgent", "usual"]


def test_whoever_has_waited_goes_before_the_urgent() -> None:
    assert names(job("usual"), job("urgent", taken=AGE_S + 0.1, priority=-1)) == ["usual", "urgent"]


def test_two_batches_are_asked_for_ahead() -> None:
    assert names(*[job(str(n), 50, taken=n / 100) for n in range(6)]) == ["0", "1", "2", "3"]


def test_what_is_computing_and_what_has_asked_counts() -> None:
    jobs = [job(str(n), 50, taken=n / 100) for n in range(4)]
    assert names(reserving(50), *jobs, computing=(30, 20)) == ["0", "1"]


def test_a_long_prompt_that_is_read_leaves_room_for_short_ones() -> None:
    assert names(job("a"), job("b", taken=0.1), computing=(30_000,)) == ["a", "b"]


def test_no_more_than_two_long_prompts_hold_pages_elsewhere() -> None:
    jobs = [job(f"long {n}", 1000) for n in range(3)]
    assert names(*jobs, job("short", 10, taken=1.0)) == ["short", "long 0", "long 1"]
    assert names(*jobs, job("short", 10, taken=1.0), computing=(500, 500)) == ["short"]


def test_a_decode_node_without_room_holds_up_nobody_else() -> None:
    assert names(reserving(100), *[reserving(50)] * 4, job("a"), job("b", address="other")) == ["b"]
