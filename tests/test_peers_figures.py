"""The arithmetic of the comparison with other systems: what answers come to, and what is said of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import peer_figures
import peer_report
import peer_systems
from peer_client import Answer, PeerFailed
from peer_figures import Search, Slo


def answer(*moments: float, began: float = 0.0, done: bool = True, each: int = 1) -> Answer:
    counts = [each * (i + 1) for i in range(len(moments))]
    return Answer(began, list(moments), counts, done=done)


def test_the_times_of_an_answer() -> None:
    found = answer(1.5, 2.0, 3.0, began=1.0, each=2)
    assert (found.ttft, found.tpot, found.gaps()) == (0.5, 1.5 / 4, [0.5, 1.0])
    assert answer(1.0).tpot is None
    assert Answer(0.0).ttft is None


def test_a_closed_loop_counts_only_what_was_answered() -> None:
    found = peer_figures.served([answer(1.0, 2.0), answer(3.0, 4.5), answer(0.1, done=False)], 8.0)
    assert found == {"tokens_per_s": 0.5, "ttft_p50": 2.0, "tpot_p50": 1.25, "failed": 1.0}
    with pytest.raises(PeerFailed, match="no request"):
        peer_figures.served([answer(0.1, done=False)], 1.0)


def test_streams_count_what_ends_in_their_window() -> None:
    found = peer_figures.streams([answer(9.0, 10.5, 11.0, 12.0, 13.0)], 10.0, 12.5)
    assert found["itl_max"] == 1.5
    assert found["tokens_per_s"] == 3 / 2.5


def test_a_stream_that_stopped_is_not_smooth() -> None:
    found = peer_figures.streams([answer(0.5, 1.0, 1.5), answer(1.0, 2.0, 9.5)], 0.0, 10.0)
    assert found["itl_max"] == 8.5
    assert peer_figures.streams([answer(*range(1, 11))], 0.0, 10.0)["itl_max"] == 1.0


def test_an_unanswered_request_has_waited_until_now() -> None:
    found = peer_figures.first_tokens([answer(1.0), Answer(2.0)], 9.0)
    assert (found["long_ttft_p50"], found["long_unanswered"]) == (4.0, 1.0)


def test_one_seed_is_one_pattern_whatever_the_rate() -> None:
    slow, fast = peer_figures.arrivals(500, 0.5, 3), peer_figures.arrivals(500, 2.0, 3)
    assert slow == pytest.approx([4 * at for at in fast])
    assert slow == sorted(slow)
    assert 500 / slow[-1] == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize(
    ("found", "met"),
    [
        (answer(1.4, 1.49), True),
        (answer(1.6, 1.61), False),
        (answer(1.0, 1.2), False),
        (answer(1.0, done=False), False),
        (answer(1.0), True),
    ],
)
def test_a_request_keeps_both_targets_or_misses(found: Answer, met: bool) -> None:
    assert Slo().met(found) is met


def test_a_miss_is_seen_before_the_answer_ends() -> None:
    waiting = Answer(10.0)
    assert not Slo().missed(waiting, 11.4)
    assert Slo().missed(waiting, 11.6)
    assert not Slo().missed(answer(1.0, done=False), 99.0)  # it still decodes


def test_how_many_may_miss() -> None:
    assert [Slo(share=0.9).may_miss(n) for n in (10, 19, 20, 25)] == [1, 1, 2, 2]


def search(good: Callable[[float], bool], factor: float = 1.1) -> tuple[float, int]:
    found, tries = Search(0.2, 8.0, factor), 0
    while (rate := found.next()) is not None:
        found.tell(rate, good(rate))
        tries += 1
    return found.low, tries


@pytest.mark.parametrize("limit", [0.21, 0.47, 1.3, 3.99, 7.9])
def test_the_search_ends_near_the_limit(limit: float) -> None:
    low, tries = search(lambda rate: rate <= limit)
    assert limit / 1.1 <= low <= limit
    assert tries <= 11


def test_the_search_stops_at_its_ends() -> None:
    assert search(lambda _: False) == (0.0, 1)
    assert search(lambda _: True)[0] == 8.0


def test_ratios_are_taken_round_by_round() -> None:
    slow_round = [{"x": 10.0}, {"x": 2.0}, {"x": 12.0}]
    found = peer_figures.against(slow_round, [{"x": 5.0}, {"x": 1.0}, {"x": 4.0}], "x")
    assert found is not None
    assert (found.median, found.high, found.count) == (2.0, 2.5, 3)
    assert peer_figures.against([{"x": 1.0}], [{"y": 1.0}], "x") is None


def test_the_best_peer_differs_from_figure_to_figure() -> None:
    rounds = {
        "ours": [{"tokens_per_s": 30.0, "ttft_p50": 0.2}],
        "a": [{"tokens_per_s": 20.0, "ttft_p50": 0.4}],
        "b": [{"tokens_per_s": 10.0, "ttft_p50": 0.1}],
    }
    found = peer_report.all_ratios(rounds, ["ours"])["ours", peer_report.BEST]
    assert (found["tokens_per_s"].median, found["ttft_p50"].median) == (1.5, 2.0)
    shown = peer_report.show("8 at a time", rounds, ["ours"])
    assert "| ours / the best of them | 1.50x " in shown
    assert "| 400 " in shown  # milliseconds


def test_what_streams_kept_is_of_the_same_round() -> None:
    quiet = [{"tokens_per_s": 100.0}, {"tokens_per_s": 50.0}]
    busy = [{"tokens_per_s": 90.0}, {"tokens_per_s": 40.0}]
    found = peer_report.with_kept({"quiet": {"a": quiet}, "busy": {"a": busy}})
    assert [f["kept"] for f in found["busy"]["a"]] == [0.9, 0.8]
    assert all("kept" not in f for f in found["quiet"]["a"])


TABLE = """
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|   256 |     32 |    1 |    288 |    0.524 |   488.72 |    0.402 |    79.68 |    0.925 |   311.21 |
|   256 |     32 |    8 |   2304 |    4.151 |   493.33 |    1.252 |   204.55 |    5.403 |   426.44 |
|   256 |     32 |   32 |   9216 |   18.204 |   450.01 |    4.170 |   245.56 |   22.374 |   411.91 |
"""


def test_the_table_of_llama_batched_bench() -> None:
    found = peer_systems.batched_bench(TABLE)
    assert found == {"prefill": 493.33, "decode_1": 79.68, "decode_8": 204.55, "decode_32": 245.56}
    with pytest.raises(PeerFailed, match="no table"):
        peer_systems.batched_bench("error: failed to load model")


def test_ratios_of_nothing_are_left_out() -> None:
    assert peer_figures.against([{"x": 1.0}], [{"x": 0.0}], "x") is None
    assert math.isinf(Search(0.2, 8.0, 1.1).high)
