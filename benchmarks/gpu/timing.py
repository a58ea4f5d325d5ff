"""How long a launch takes: replays of a captured graph between CUDA events, or direct launches where that is
asked for or cannot be captured.

A graph holds so many launches that its replay lasts about a millisecond, so what stands between replays does
not count; launches take their inputs in turn. On a CPU a wall clock shows that the code runs, and no more.
Knows nothing of what is launched.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

Run = Callable[[], object]
Read = Callable[[], float]  # microseconds a launch: the median of some repeats

SECONDS = 0.1  # that one reading may take
GRAPH_MS = 1.0  # that a replay should last
MAX_LAUNCHES = 512  # in one graph
REPEATS = (5, 200)


class Timer(NamedTuple):
    read: Read
    how: str  # "graph", "direct" or "wall"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alive(device: torch.device) -> bool:
    """False once an illegal access has killed this process's context: nothing on the device works after it.
    Nor does randomness after a capture that broke off, if ``_mend`` could not help."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        torch.rand(8, device=device)
        return int(torch.ones(8, device=device).sum()) == 8
    except Exception:  # whatever a dead context raises, the answer is no
        return False


def timer(runs: Sequence[Run], device: torch.device, graph: bool = True, seconds: float = SECONDS) -> Timer:
    """``runs`` must have run before: nothing is compiled here."""
    if device.type != "cuda":
        return Timer(lambda: _wall(runs[0]), "wall")
    in_turn = _in_turn(runs)
    if graph:
        try:
            replay, launches = _captured(runs, _one_reading(in_turn) / len(runs))
            return Timer(_reader(replay, launches, seconds), "graph")
        except Exception:  # what cannot be captured is timed launch by launch
            _mend()
            if not alive(device):
                raise
    return Timer(_reader(in_turn, len(runs), seconds), "direct")


def host_us(run: Run, device: torch.device) -> tuple[float, float]:
    """Of one direct launch: the host's time until the call returns, and until its result is there."""
    returned: list[float] = []
    done: list[float] = []
    while sum(done) < SECONDS and len(done) < (30 if device.type == "cuda" else 1):
        synchronize(device)
        start = time.perf_counter()
        run()
        returned.append(time.perf_counter() - start)
        synchronize(device)
        done.append(time.perf_counter() - start)
    return statistics.median(returned) * 1e6, statistics.median(done) * 1e6


def _in_turn(runs: Sequence[Run]) -> Run:
    def all_of_them() -> None:
        for run in runs:
            run()

    return all_of_them


def _captured(runs: Sequence[Run], ms_a_launch: float) -> tuple[Run, int]:
    """A graph's replay, and how many launches it holds: as often each of ``runs``."""
    replay, launches = _capture(runs, ms_a_launch)
    # A direct launch may have been the host's time more than the device's: now the device's is known.
    ms = _one_reading(replay)
    if ms < GRAPH_MS / 2 and launches < MAX_LAUNCHES:
        replay, launches = _capture(runs, ms / launches)
    return replay, launches


def _capture(runs: Sequence[Run], ms_a_launch: float) -> tuple[Run, int]:
    wanted = min(MAX_LAUNCHES, math.ceil(GRAPH_MS / max(ms_a_launch, 1e-4)))
    times = max(1, round(wanted / len(runs)))
    # What a launch prepares at its first time on a stream must not be captured.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for run in runs:
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with (
        torch.cuda.stream(stream),  # comes back from a capture that broke off, which the next one does not
        torch.cuda.graph(graph),
    ):
        for _ in range(times):
            for run in runs:
                run()
    return graph.replay, times * len(runs)


def _mend() -> None:
    """After a capture that broke off the random generator believes that it is still being captured, until
    another one ends well."""
    with contextlib.suppress(Exception):
        torch.cuda.synchronize()
        x, graph = torch.ones(8, device="cuda"), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x.add_(1)


def _reader(replay: Run, launches: int, seconds: float) -> Read:
    ms = max(_one_reading(replay), 1e-3)
    repeats = int(min(max(seconds * 1e3 / ms, REPEATS[0]), REPEATS[1]))
    warm = math.ceil(min(repeats, 20.0 / ms))  # as long as a clock needs to rise

    def read() -> float:
        for _ in range(warm):
            replay()
        events = [_event() for _ in range(repeats + 1)]
        events[0].record()
        for event in events[1:]:
            replay()
            event.record()
        torch.cuda.synchronize()
        between = [a.elapsed_time(b) for a, b in itertools.pairwise(events)]
        return statistics.median(between) * 1e3 / launches

    return read


def _one_reading(run: Run) -> float:
    """Milliseconds of the second of two goes."""
    run()
    start, end = _event(), _event()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def _wall(run: Run) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e6
