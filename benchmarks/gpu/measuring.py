"""One case: is it right, and then how long does it take, beside its peers, twice.

Two rounds over all that is compared, A B A B; a time is the mean of the two and the spread is what lies
between them. Knows one case; decides nothing about targets.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu import tuning
from benchmarks.gpu.case import Case, Run, World
from benchmarks.gpu.timing import Read, alive, host_us, synchronize, timer

Skip = frozenset[str]
Stage = Callable[[str], None]

OWN, HOT = "", "(hot)"  # names that no peer has
CACHE = 100e6  # bytes that no cache holds

_host_timed: set[str] = set()  # kernels whose launch cost is known


class Lane:
    """Something that is timed beside others."""

    def __init__(self, peer: Run | Sequence[Run]) -> None:
        self.alone = callable(peer)
        self.runs: Sequence[Run] = [peer] if callable(peer) else peer


def measured(case: Case, world: World, skip: Skip, tuner: tuning.Tuner, stage: Stage) -> dict[str, Any]:
    """What there is to report: ``ok`` and ``error`` always, times only of a result that was right."""
    stage("check")
    start = time.monotonic()
    for run in case.runs:
        run()
    synchronize(world.device)
    first_s = time.monotonic() - start  # mostly compiling
    start = time.monotonic()
    error = case.wrong()
    check_s = time.monotonic() - start
    result: dict[str, Any] = {
        **{name: getattr(case, name) for name in ("tolerance", "nbytes", "flops", "rate", "moves")},
        "target": None if case.target is None else {"of": case.target.of, "ratio": case.target.ratio},
        "first_s": first_s,
        "error": error,
        "ok": error <= case.tolerance,  # NaN is not
    }
    if not result["ok"]:
        return result
    choice = None
    if case.tune is not None and "tune" not in skip:
        choice = tuner.choose(case, stage)
    with contextlib.nullcontext() if choice is None else choice.applied():
        result |= _times(case, world, skip, stage)
        if choice is not None:
            result["tuned"] = choice.said()
        if check_s < 0.5 or choice is not None:
            # A race may show only now and then, and a tuned launch must be as right as the default.
            stage("check again")
            result["error"] = max(error, again) if (again := case.wrong()) <= case.tolerance else again
            result["ok"] = again <= case.tolerance
    return result


def _times(case: Case, world: World, skip: Skip, stage: Stage) -> dict[str, Any]:
    stage("time")
    own = timer(case.runs, world.device, case.graph)
    reads: dict[str, Read] = {OWN: own.read}
    peers, refused = _peers(case, world, skip, stage)
    alone = [name for name, lane in peers.items() if lane.alone]
    cached = alone and len(case.runs) > 1 and case.nbytes < CACHE
    if cached:
        reads[HOT] = timer(case.runs[:1], world.device, case.graph).read
    for name, lane in peers.items():
        stage(f"peer {name}")
        try:
            reads[name] = timer(lane.runs, world.device, case.graph).read
        except Exception as error:
            if not alive(world.device):
                raise
            refused[name] = _why(error)
    rounds: dict[str, list[float]] = {name: [] for name in reads}
    for _ in range(2):
        for name, read in reads.items():
            stage(f"peer {name}" if name not in (OWN, HOT) else "time")
            rounds[name].append(read())
    times = {name: statistics.mean(both) for name, both in rounds.items()}
    against = {name: times[HOT if cached and peers[name].alone else OWN] for name in times if name in peers}
    return {
        "us": times[OWN],
        "spread": abs(rounds[OWN][0] - rounds[OWN][1]) / times[OWN],
        "how": own.how,
        "hot_us": times.get(HOT),
        "peers": {name: {"us": times[name], "ratio": times[name] / ours} for name, ours in against.items()},
        "refused": refused,
        **_host(case, world),
    }


def _peers(case: Case, world: World, skip: Skip, stage: Stage) -> tuple[dict[str, Lane], dict[str, str]]:
    """Those that run, warmed up, and why the others do not."""
    lanes: dict[str, Lane] = {}
    refused = {name: "ended the process" for name in skip if name in case.peers}
    for name, peer in case.peers.items():
        if name in refused:
            continue
        stage(f"peer {name}")
        try:
            lane = Lane(peer)
            for run in (*lane.runs, lane.runs[0]):
                run()
            synchronize(world.device)
            lanes[name] = lane
        except Exception as error:
            if not alive(world.device):
                raise
            refused[name] = _why(error)
    return lanes, refused


def _host(case: Case, world: World) -> dict[str, float]:
    if case.kernel in _host_timed:
        return {}
    _host_timed.add(case.kernel)
    returned, done = host_us(case.runs[0], world.device)
    return {"host_us": returned, "alone_us": done}


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]
