"""Steps that begin before the tokens of the one before are seen: the same tokens, and nothing leaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import Answers, run, workload
from test_engine import engine
from tiny import model_folder, sequence

from pagewire.engine.drawing import Drawn
from pagewire.engine.engine import Engine
from pagewire.rng import uniform
from pagewire.sampling import SamplingParams

Work = list[tuple[str, list[int], SamplingParams]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny").path


def stopping(max_tokens: int = 40, every: int = 8) -> Work:
    """Requests that mostly end by a token that nobody foresees: one in ``every`` of the vocabulary."""
    work: Work = []
    for i in range(20):
        tokens = [int(uniform(3, i, j) * 90) + 3 for j in range(1 + int(uniform(2, 0, i) * 60))]
        stops = tuple(range(i, 96, every)) if i % 5 else ()
        params = SamplingParams(temperature=1.2, top_k=30, max_tokens=max_tokens, stop_token_ids=stops)
        work.append((f"s{i}", tokens, params))
    return work


def both(folder: Path, work: Work, **sizes: int) -> tuple[Answers, Answers, Engine]:
    ahead = engine(folder, **sizes, ahead=True)
    return run(ahead, work), run(engine(folder, **sizes), work), ahead


@pytest.mark.parametrize("work", [workload(), stopping()], ids=["lengths, choices, penalties", "stops"])
def test_the_same_tokens(folder: Path, work: Work) -> None:
    got, want, _ = both(folder, work)
    assert got == want
    assert {finish for _, finish in got.values()} >= {"length"}


def test_some_end_by_a_token_that_was_not_foreseen(folder: Path) -> None:
    got, _, _ = both(folder, stopping())
    assert sum(finish == "stop" for _, finish in got.values()) > 8


def test_the_same_tokens_under_preemption(folder: Path) -> None:
    sizes = {"pages": 24, "page_size": 8, "budget": 32, "seqs": 12}
    for work in (workload(60), stopping(80, 48)):
        got, want, ahead = both(folder, work, **sizes)
        assert got == want
        assert ahead.preemptions > 2


def test_a_step_is_given_out_before_the_tokens_of_the_last_are_seen(folder: Path) -> None:
    ahead = engine(folder, ahead=True)
    ahead.admit(sequence([5, 6, 7], SamplingParams(max_tokens=3, temperature=0.0)))
    first, second = ahead.step(), ahead.step()
    assert (len(first.computed), len(first.tokens)) == (1, 0)
    assert (len(second.computed), len(second.tokens)) == (1, 1)


def test_a_step_whose_answers_hang_on_more_than_a_draw_is_looked_at_at_once(folder: Path) -> None:
    ahead = engine(folder, ahead=True)
    ahead.admit(sequence([5, 6, 7], SamplingParams(max_tokens=3, frequency_penalty=0.5)))
    assert len(ahead.step().tokens) == 1


def test_the_last_tokens_are_seen_though_nothing_is_left_to_compute(folder: Path) -> None:
    ahead = engine(folder, ahead=True)
    seq = sequence([5, 6, 7], SamplingParams(max_tokens=8))
    seq.budget = 1
    ahead.admit(seq)
    assert ahead.step().worked
    last = ahead.step()
    assert (len(last.computed), len(last.tokens), len(last.finished)) == (0, 1, 1)
    assert len(last.finished[0].live) == 1
    ahead.pool.release(last.finished[0].lease)
    assert not ahead.step().worked


@settings(max_examples=25)
@given(aborts=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 19)), max_size=12), small=st.booleans())
def test_aborts_at_any_moment_leak_nothing_and_change_no_other_token(
    folder: Path, aborts: list[tuple[int, int]], small: bool
) -> None:
    sizes = {"pages": 24, "page_size": 8, "budget": 32, "seqs": 12} if small else {}
    want = run(engine(folder, **sizes), stopping(20))
    ahead = engine(folder, **sizes, ahead=True)
    for name, tokens, params in stopping(20):
        ahead.admit(sequence(tokens, params, name))
    got: dict[str, list[int]] = {}
    ended: set[str] = set()
    step = 0
    while ahead.busy:
        out = ahead.step()
        for token in out.tokens:
            assert token.seq.request not in ended
            got.setdefault(token.seq.request, []).append(token.sampled.token)
        for finished in out.finished:
            ahead.pool.release(finished.lease)
            ended.add(finished.seq.request)
        for at, who in aborts:
            if at == step:
                for seq in [s for s in ahead.sequences() if s.request == f"s{who}"]:
                    ended.add(seq.request)
                    if (lease := ahead.abort(seq)) is not None:
                        ahead.pool.release(lease)
        ahead.pool.check()
        step += 1
    assert ahead.accounts().leased == 0
    for name, tokens in got.items():
        assert tokens == want[name, 0][0][: len(tokens)]
    finished_whole = [name for name in got if name not in {f"s{who}" for _, who in aborts}]
    assert all(got[name] == want[name, 0][0] for name in finished_whole)


class Late(Drawn):
    """Tokens of a device that takes its time: not there the first ``late`` times that somebody asks."""

    late = 3

    def ready(self) -> bool:
        self.late -= 1
        return self.late < 0


@pytest.fixture
def slow_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagewire.engine.drawing.Drawn", Late)


@pytest.mark.usefixtures("slow_device")
def test_a_slow_device_changes_no_token(folder: Path) -> None:
    got, want, _ = both(folder, stopping())
    assert got == want


@pytest.mark.usefixtures("slow_device")
def test_who_watches_goes_on_while_the_device_computes(folder: Path) -> None:
    ahead = engine(folder, ahead=True)
    ahead.admit(sequence([5, 6, 7], SamplingParams(max_tokens=3, temperature=0.0)))
    seen: list[int] = []
    ahead.step(lambda out, layers: seen.append(layers))
    assert seen == [0, 1, 2, 3]
    ahead.step(lambda out, layers: seen.append(layers))
    assert seen[4:] == [0, 1, 2, 3, *[3] * Late.late]


@pytest.mark.usefixtures("slow_device")
def test_with_nothing_to_compute_a_step_does_not_wait_for_the_device(folder: Path) -> None:
    ahead = engine(folder, ahead=True)
    seq = sequence([5, 6, 7], SamplingParams(max_tokens=8))
    seq.budget = 1
    ahead.admit(seq)
    ahead.step()
    outs = [ahead.step() for _ in range(Late.late)]
    assert all(out.worked and not out.tokens for out in outs)
    assert len(ahead.step().finished) == 1
