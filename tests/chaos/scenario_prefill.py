"""F3, F7: one of two prefill nodes that is killed, or stopped for half a minute, at each point of its part.

Knows which phase is hurt, and what the matrix promises for it.
"""

from __future__ import annotations

import random
import threading
import time
from functools import partial

import httpx
from faults import HurtCluster
from repeats import Trial, attempts, mixed, repeat, silence
from report import FaultMissing, Plan, Row, Scenario
from streams import stream

TWO = ("--prefill", "2")
PHASES = {
    "queued": "with prompts queued",
    "prefill": "in the middle of a prompt",
    "transfer": "in the middle of a transfer",
    "commit": "after the last page, before commit",
    "committed": "after commit",
}
STOP_S = 30.0


# --- F3: kill -9 --------------------------------------------------------------------------------------------


def killed(plan: Plan, name: str, phase: str) -> Row:
    row = Row(name, f"kill -9 one of 2 prefill nodes {PHASES[phase]}", bound_s=5.0)
    asks = mixed(16, tokens=32, seed=plan.seed)
    return repeat(row, plan, TWO, asks, partial(_kill, phase=phase), side_by_side=2)


def _kill(trial: Trial, rng: random.Random, number: int, *, phase: str) -> None:
    cluster, victim = trial.cluster, rng.choice(trial.cluster.of("prefill"))
    with cluster.hold(victim, phase, rng.randrange(0, 4)) as hold:
        flight = trial.launch()
        hold.reached()
        if not flight.under_way():
            raise FaultMissing("all streams had ended")
        with _Watch(cluster.url) as watch:
            killed = cluster.kill_now(victim)
            outcomes = flight.land()
    trial.judge(outcomes)
    if phase != "committed" and not any(attempts(out) > 1 for out in outcomes):
        raise FaultMissing("no request had to be read again")
    if watch.bad:
        trial.problem(f"/live and /ready during the loss: {watch.bad[:3]}")
    trial.took(max(silence(out, killed.at) for out in outcomes))
    trial.sweep(max(out.ended for out in outcomes))


class _Watch:
    """Asks /live and /ready again and again; ``bad`` is what was not 200."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.bad: list[str] = []

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        with httpx.Client(timeout=10) as client:
            while not self._end.wait(0.1):
                for path in ("/live", "/ready"):
                    if (status := client.get(self._url + path).status_code) != 200:
                        self.bad.append(f"{path} {status}")


# --- F7: SIGSTOP --------------------------------------------------------------------------------------------


def stopped(plan: Plan, name: str, phase: str) -> Row:
    row = Row(name, f"SIGSTOP one of 2 prefill nodes for {STOP_S:g} s {PHASES[phase]}", bound_s=8.0)
    asks = mixed(12, tokens=32, seed=plan.seed)
    late = _Late()
    row = repeat(row, plan, TWO, asks, partial(_stop, phase=phase, late=late), side_by_side=4)
    row.notes.append(f"after SIGCONT: {late}")
    return row


class _Late:
    """What the woken nodes still said of transfers that had ended, as both ends counted it."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def add(self, before: dict[str, float], after: dict[str, float]) -> None:
        for name, value in after.items():
            self.counts[name] = self.counts.get(name, 0) + value - before[name]

    def __str__(self) -> str:
        return ", ".join(f"{value:g} {name}" for name, value in sorted(self.counts.items()))


def _stop(trial: Trial, rng: random.Random, number: int, *, phase: str, late: _Late) -> None:
    cluster, victim = trial.cluster, rng.choice(trial.cluster.of("prefill"))
    with cluster.hold(victim, phase, rng.randrange(0, 3)) as hold:
        flight = trial.launch()
        hold.reached()
        with cluster.stop_now(victim) as stopped:
            hold.release()  # what it was about to do, it does when it wakes
            outcomes = flight.land()
            if not any(attempts(out) > 1 for out in outcomes):
                raise FaultMissing("no request had to be read again")
            if victim in cluster.nodes():
                trial.problem("the stopped node was not given up")
            stopped.last(STOP_S)
            before = _counts(cluster, victim)
        woken = stopped.wake()
    trial.judge(outcomes)
    trial.took(max(silence(out, stopped.at) for out in outcomes))
    if cluster.freed(woken, 5.0) is None:
        trial.problem(f"5 s after SIGCONT: {cluster.still_held(woken)}")
    cluster.until(cluster.whole, 10)
    with trial.lock:
        late.add(before, _counts(cluster, victim))
    _works_again(trial, victim)


def _counts(cluster: HurtCluster, victim: str) -> dict[str, float]:
    """Frames that decode refused and wrote, and transfers that the victim gave up."""
    (decode,) = cluster.of("decode")
    found = {
        f"frames {key} at decode": cluster.gauge(decode, f"transfer_{key}")
        for key in ("late", "unknown", "stray", "duplicate", "out_of_range", "forged", "frames")
    }
    return found | {
        f"transfers {key} at prefill": cluster.gauge(victim, f"transfer_{key}") for key in ("lost", "aborted")
    }


def _works_again(trial: Trial, victim: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        outs = trial.launch(trial.asks[:6]).land()
        trial.judge(outs)
        if any(out.node("prefill") == victim for out in outs):
            break
    else:
        trial.problem("the woken node got nothing to do")
    last = stream(trial.cluster.url, trial.asks[0])
    trial.sweep(last.ended)


SCENARIOS: dict[str, Scenario] = {
    **{
        name: partial(killed, name=name, phase=phase)
        for name, phase in zip(("F3a", "F3b", "F3c", "F3d", "F3e"), PHASES, strict=True)
    },
    **{
        name: partial(stopped, name=name, phase=phase)
        for name, phase in (("F7", "transfer"), ("F7a", "prefill"), ("F7b", "commit"))
    },
}
