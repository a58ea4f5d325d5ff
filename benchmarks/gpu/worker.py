"""A section in a process of its own: each case is built, checked, tuned if asked for, and timed.

Everything is said as an event the moment it is known (``events.py``); before anything that may kill or hang
this process it says what it is about to do. Knows nothing of other sections and of reports.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import ceilings, tuning
from benchmarks.gpu.case import Case, Reading, World
from benchmarks.gpu.events import Writer
from benchmarks.gpu.measuring import Lane, Skip, measured
from benchmarks.gpu.timing import alive, synchronize
from kernels import backend, tuned

CONTEXT_DEAD = 17  # exit status: start me again behind the case that did it
SEED = 1


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What the process that started this one wants of it."""

    path: Path  # the section's file
    prove: bool = False
    first: int = 0  # cases before this one are built and passed over
    skip: Mapping[int, frozenset[str]] = field(default_factory=dict)  # of a case: peers, or "tune"
    seconds: float = 1e9
    tune_seconds: float = 0.0


def work(orders: Orders, say: Writer) -> int:
    """The exit status."""
    _leave_with_parent()
    deadline = time.monotonic() + orders.seconds
    say.stage(0, "start")
    world = _world(orders.prove, say)
    say("start", **about(world.device))
    found, missing = ceilings.measure(world.device)
    say("ceilings", found=found, missing=missing)
    world = dataclasses.replace(world, ceilings=found)
    tuner = tuning.Tuner(world.device, orders.tune_seconds, say)
    for index, case in _cases(orders.path, world, say):
        if time.monotonic() > deadline:
            say("late", index=index)
            return 1
        if index >= orders.first:
            skip = Skip(orders.skip.get(index, frozenset()))
            try:
                say("result", index=index, **_one(index, case, world, skip, tuner, say))
            except (Exception, SystemExit):
                why = last_line()
                if not alive(world.device):
                    say("dead", why=why)  # who started us knows from the last stage what did it
                    os._exit(CONTEXT_DEAD)
                say("failed", index=index, kernel=case.kernel, shape=case.shape, why=why)
        del case
        _clear(world.device)
    say("end")
    return 0


def warm_up(orders: Orders, shard: int, shards: int, say: Writer) -> int:
    """Launch each thing that will be timed once, so that Triton finds it compiled on disk; one in ``shards``
    of them, the others being warmed up by processes beside this one. Failures are for ``work`` to report."""
    _leave_with_parent()
    deadline = time.monotonic() + orders.seconds
    world, turn = _world(orders.prove, say), 0
    for _, case in _cases(orders.path, world, Writer(Path(os.devnull))):
        launches = _launches(case, orders.tune_seconds > 0) if isinstance(case, Case) else []
        for launch in launches[(shard - turn) % shards :: shards]:
            if time.monotonic() > deadline:
                return 0
            try:
                launch()
                synchronize(world.device)
                say("warm")
            except (Exception, SystemExit):
                say("cold", why=last_line())
                if not alive(world.device):
                    os._exit(CONTEXT_DEAD)
        turn += len(launches)
        del case, launches
        _clear(world.device)
    return 0


def listed(orders: Orders, device: torch.device, tiny: bool, say: Writer) -> int:
    """Say what each case would move and compute, running none."""
    for _, case in _cases(orders.path, World(device, tiny), say):
        if isinstance(case, Case):
            numbers = {name: getattr(case, name) for name in ("nbytes", "flops", "moves", "rate")}
            say("case", kernel=case.kernel, shape=case.shape, peers=list(case.peers), tiny=tiny, **numbers)
        else:
            say("case", kernel=case.kernel, shape=case.shape, peers=[], tiny=tiny)
    say("end")
    return 0


def about(device: torch.device) -> dict[str, Any]:
    """Names and versions, for the head of the report."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "device": name,
        "table": tuned.file_name(name),
        "torch": torch.__version__,
        "triton": getattr(backend.triton, "__version__", "none"),
        "cuda": torch.version.cuda or "none",
        "python": sys.version.split()[0],
    }


def last_line() -> str:
    """Of the traceback of the exception being handled, and where in our files it came from."""
    kind, error, trace = sys.exc_info()
    lines = "".join(traceback.format_exception_only(kind, error)).strip().splitlines()
    frames = [frame for frame in traceback.extract_tb(trace) if "site-packages" not in frame.filename]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return (lines[-1] if lines else str(kind))[:300] + where


def _one(
    index: int, case: Case | Reading, world: World, skip: Skip, tuner: tuning.Tuner, say: Writer
) -> dict[str, Any]:
    def stage(name: str) -> None:
        say.stage(index, name, case.kernel, case.shape)

    about = {"kernel": case.kernel, "shape": case.shape}
    if isinstance(case, Reading):
        stage("read")
        return about | {"figures": dict(case.read()), "at_most": dict(case.at_most)}
    return about | measured(case, world, skip, tuner, stage)


def _cases(path: Path, world: World, say: Writer) -> Iterator[tuple[int, Case | Reading]]:
    """The section's cases with their index; if the section itself fails, that is said, and it ends."""
    say.stage(0, "import")
    try:
        cases: Iterator[Case | Reading] = iter(_module(path).cases(world))
    except (Exception, SystemExit):
        say("failed", index=-1, kernel=path.stem, shape="import", why=last_line())
        return
    index = 0
    while True:
        say.stage(index, "build")
        try:
            case = next(cases)
        except StopIteration:
            return
        except (Exception, SystemExit):
            say("failed", index=index, kernel=path.stem, shape=f"building case {index}", why=last_line())
            return
        yield index, case
        del case  # and with it its inputs, before the next one's are made
        index += 1


def _launches(case: Case, tune: bool) -> list[Callable[[], object]]:
    launches = [case.runs[0]]
    launches += [Lane(peer).runs[0] for peer in case.peers.values()]
    if tune and case.tune is not None:
        launches += [tuning.under(case.tune.kernel, use, case.runs[0]) for use in case.tune.uses]
    return launches


def _module(path: Path) -> Any:
    name = f"benchmarks.gpu.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _world(prove: bool, say: Writer) -> World:
    torch.set_grad_enabled(False)
    torch.manual_seed(SEED)
    if not prove and not torch.cuda.is_available():
        say("unable", why="no GPU here: --prove runs everything on a CPU, with tiny shapes")
        sys.exit(1)
    return World(torch.device("cpu" if prove else "cuda"), tiny=prove)


def _clear(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _leave_with_parent() -> None:
    """A process that hangs in a driver's call would outlive the one that should end it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
