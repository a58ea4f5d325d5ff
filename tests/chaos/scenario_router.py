"""F4: the router is killed, or stopped, with requests in every phase on the nodes.

Knows which phase the nodes are in, and what the matrix promises for it.
"""

from __future__ import annotations

import random
import time
from functools import partial

from repeats import RESTART_S, Trial, mixed, repeat, silence
from report import FaultMissing, Plan, Row, Scenario

PHASES = {
    "queued": ("prefill-0", "with prompts queued"),
    "prefill": ("prefill-0", "in the middle of a prompt"),
    "transfer": ("prefill-0", "in the middle of a transfer"),
    "commit": ("prefill-0", "before commit"),
    "adopted": ("decode-0", "before the first step of an answer"),
    "decode": ("decode-0", "while answers are written"),
}
CANCELLED_S = 3.0  # until the nodes have dropped what they did for it
STOP_S = 6.0


# --- kill -9 ------------------------------------------------------------------------------------------------


def killed(plan: Plan, name: str, phase: str) -> Row:
    row = Row(name, f"kill -9 the router {PHASES[phase][1]}", bound_s=CANCELLED_S)
    return repeat(row, plan, (), mixed(16, tokens=48, seed=plan.seed), partial(_kill, phase=phase))


def _kill(trial: Trial, rng: random.Random, number: int, *, phase: str) -> None:
    cluster = trial.cluster
    with cluster.hold(PHASES[phase][0], phase, rng.randrange(0, 6)) as hold:
        flight = trial.launch()
        hold.reached()
        killed = cluster.kill_now("router")
    freed = cluster.freed(killed.at, 20)
    outcomes = flight.land()
    if not any(out.error == "connection" for out in outcomes):
        raise FaultMissing("no stream was broken")
    trial.judge(outcomes, errors=("connection",))
    _free_in_time(trial, freed)
    _a_new_router_works(trial)


def _free_in_time(trial: Trial, freed: float | None) -> None:
    if freed is None:
        trial.problem(f"held after 20 s: {trial.cluster.still_held(0)}")
    else:
        trial.took(freed)


def _a_new_router_works(trial: Trial) -> None:
    trial.cluster.until(trial.cluster.whole, RESTART_S)
    again = trial.launch(trial.asks[:4]).land()
    trial.judge(again)
    trial.sweep(max(out.ended for out in again))


def killed_for_good(plan: Plan) -> Row:
    row = Row("F4x", "kill -9 the router, and none comes in its place", bound_s=CANCELLED_S)
    return repeat(row, plan, (), mixed(16, tokens=48, seed=plan.seed), _kill_for_good)


def _kill_for_good(trial: Trial, rng: random.Random, number: int) -> None:
    cluster = trial.cluster
    with cluster.hold("decode-0", "decode", rng.randrange(2, 20)) as hold:
        flight = trial.launch()
        hold.reached()
        with cluster.stop_supervisor():
            killed = cluster.kill_now("router")
            hold.release()
            freed = cluster.freed(killed.at, 20)
            outcomes = flight.land()
    trial.judge(outcomes, errors=("connection",))
    _free_in_time(trial, freed)
    _a_new_router_works(trial)


# --- SIGSTOP ------------------------------------------------------------------------------------------------


def stopped(plan: Plan) -> Row:
    row = Row("F4s", f"SIGSTOP the router for {STOP_S:g} s, in each phase", bound_s=8.0)
    return repeat(row, plan, (), mixed(12, tokens=48, seed=plan.seed), _stop)


def _stop(trial: Trial, rng: random.Random, number: int) -> None:
    """Its nodes give it up. When it wakes it has to see that, and its streams go on."""
    cluster = trial.cluster
    phase = list(PHASES)[number % len(PHASES)]
    with cluster.hold(PHASES[phase][0], phase, rng.randrange(0, 6)) as hold:
        flight = trial.launch()
        hold.reached()
        with cluster.stop_now("router") as stopped:
            hold.release()
            stopped.last(STOP_S)
            if held := cluster.still_held(time.monotonic() - 1):
                trial.problem(f"{STOP_S:g} s after the router stopped: {held}")
            cut_off = flight.under_way()
        woken = stopped.wake()
    if not cut_off:
        raise FaultMissing("all streams had ended")
    outcomes = flight.land()
    trial.judge(outcomes)
    trial.took(max(silence(out, woken) for out in outcomes))
    trial.sweep(max(out.ended for out in outcomes))


_NAMES = ("F4a", "F4b", "F4c", "F4d", "F4e", "F4")
SCENARIOS: dict[str, Scenario] = {
    **{name: partial(killed, name=name, phase=phase) for name, phase in zip(_NAMES, PHASES, strict=True)},
    "F4x": killed_for_good,
    "F4s": stopped,
}
