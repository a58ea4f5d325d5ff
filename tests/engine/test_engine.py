"""The engine on a tiny model: whatever the pages, chunks, neighbours and preemptions, the same tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import Answers, run, workload
from tiny import model_folder, sequence

from pagewire.engine.build import build_engine
from pagewire.engine.engine import Engine
from pagewire.errors import RequestError
from pagewire.sampling import SamplingParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny").path


def engine(
    folder: Path,
    *,
    pages: int = 256,
    page_size: int = 16,
    budget: int = 512,
    seqs: int = 64,
    ahead: bool = False,
) -> Engine:
    layout_bytes = 3 * 2 * 2 * 16 * 4
    return build_engine(
        model_folder(folder),
        load_format="dummy",
        page_size=page_size,
        kv_cache_bytes=pages * page_size * layout_bytes,
        max_batch_tokens=budget,
        max_num_seqs=seqs,
        async_scheduling=ahead,
    ).engine


@pytest.fixture(scope="module")
def alone(folder: Path) -> Answers:
    """Each request by itself, its prompt in one chunk."""
    answers: Answers = {}
    for item in workload():
        answers |= run(engine(folder), [item])
    return answers


@pytest.mark.parametrize("page_size", [1, 16, 64])
@pytest.mark.parametrize("budget", [16, 512])
def test_tokens_do_not_depend_on_batch_pages_or_chunks(
    folder: Path, alone: Answers, page_size: int, budget: int
) -> None:
    assert (
        run(engine(folder, pages=4096 // page_size, page_size=page_size, budget=budget), workload()) == alone
    )


def test_tokens_do_not_depend_on_preemption(folder: Path) -> None:
    small = engine(folder, pages=24, page_size=8, budget=32, seqs=12)
    assert run(small, workload(60)) == run(engine(folder), workload(60))
    assert small.preemptions > 5


def test_a_warm_prefix_cache_changes_no_token(folder: Path, alone: Answers) -> None:
    warm = engine(folder)
    run(warm, workload())
    assert run(warm, workload()) == alone
    assert warm.cache.stats.hit > 0


def test_adopting_elsewhere_goes_on_with_the_same_tokens(folder: Path, alone: Answers) -> None:
    """A handoff without a wire: KV bytes and first tokens move from one engine to another."""
    from pagewire.engine.slots import slots_of

    source, target = engine(folder, page_size=16), engine(folder, pages=512, page_size=8)
    answers: Answers = {}
    for name, tokens, params in workload():
        seq = sequence(tokens, params, name)
        seq.budget = 1
        source.admit(seq)
        finished = []
        while not finished:
            out = source.step()
            finished = out.finished
        (done,) = finished
        for token in out.tokens:
            answers[name, token.choice] = ([token.sampled.token], token.finish)
        slab = source.runner.cache.read(slots_of(done.lease.pages, len(tokens), 16))
        source.pool.release(done.lease)
        arrived = sequence(tokens, params, name)
        arrived.lease = target.pool.lease()
        assert target.pool.grow(arrived.lease, target.pool.pages_for(len(tokens)))
        target.runner.cache.write(slots_of(arrived.lease.pages, len(tokens), 8), slice(None), slab.tobytes())
        arrived.num_computed, arrived.choices = len(tokens), [t.choice for t in done.live]
        if done.live:
            target.adopt(arrived, [(t.choice, t.sampled.token) for t in done.live])
        else:
            target.pool.release(arrived.lease)
    while target.busy:
        out = target.step()
        for token in out.tokens:
            so_far, _ = answers[token.seq.request, token.choice]
            answers[token.seq.request, token.choice] = ([*so_far, token.sampled.token], token.finish)
        for f in out.finished:
            target.pool.release(f.lease)
    assert answers == alone
    for each in (source, target):
        assert each.accounts().leased == 0


@pytest.mark.parametrize("after", [0, 1, 3])
def test_abort_in_any_state_frees_the_pages(folder: Path, after: int) -> None:
    some = engine(folder, budget=32)
    for name, tokens, params in workload():
        some.admit(sequence(tokens, params, name))
    for _ in range(after):
        for finished in some.step().finished:
            some.pool.release(finished.lease)
    for seq in some.sequences():
        if (lease := some.abort(seq)) is not None:
            some.pool.release(lease)
    assert not some.busy
    assert some.accounts().leased == 0


def test_a_request_beyond_the_whole_pool_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="more KV memory"):
        engine(folder, pages=4).admit(sequence([5] * 40, SamplingParams(max_tokens=100)))


def test_prompt_logprobs_do_not_depend_on_chunks(folder: Path) -> None:
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=2)
    found = []
    for budget in (7, 512):
        one = engine(folder, budget=budget)
        one.admit(sequence(list(range(3, 43)), params))
        scores = []
        while one.busy:
            out = one.step()
            scores += out.prompt_logprobs
            for finished in out.finished:
                one.pool.release(finished.lease)
        found.append(scores[0][1])
    assert found[0] == found[1]
    assert len(found[0].logprobs) == 39
