"""F1, F2, F5, F6: a decode node that is killed, or stopped for a second or for half a minute.

Knows which phase of which node is hurt, and what the matrix promises for it.
"""

from __future__ import annotations

import random
import time
from functools import partial

import httpx
from faults import HurtCluster
from repeats import RESTART_S, Trial, attempts, mixed, repeat, silence
from report import FaultMissing, Plan, Row, Scenario
from streams import Flight, Outcome, stream

TWO = ("--decode", "2")
PHASES = {
    "reserve": "before it grants room",
    "transfer": "with a part of a prompt written",
    "commit": "with a prompt landed and not adopted",
    "adopted": "with a prompt adopted and nothing computed of it",
    "decode": "while it writes answers",
}
AVOIDED_S = 3.0  # from then on nobody is sent to the dead node
REFUSED_S = 0.05  # an answer that nobody can take the request
BACK_S = 5.0  # from a node's return until it serves
STOP_S = 30.0


# --- F1: kill -9 one of two ---------------------------------------------------------------------------------


def one_of_two_killed(plan: Plan, name: str, phase: str) -> Row:
    row = Row(name, f"kill -9 one of 2 decode nodes {PHASES[phase]}", bound_s=5.0)
    if phase == "decode":  # short prompts and longer answers, so that most of them are being written at once
        asks, lanes = mixed(64, tokens=64, seed=plan.seed, prompt=(20, 60)), 1
    else:
        asks, lanes = mixed(16, tokens=32, seed=plan.seed), 2
    return repeat(row, plan, TWO, asks, partial(_kill_one, phase=phase), side_by_side=lanes)


def _kill_one(trial: Trial, rng: random.Random, number: int, *, phase: str) -> None:
    cluster, victim = trial.cluster, rng.choice(trial.cluster.of("decode"))
    if phase == "decode":  # in full flight
        flight = trial.launch()
        _both_write(cluster, flight, rng, least=16)
        killed = cluster.kill_now(victim)
    else:
        with cluster.hold(victim, phase, rng.randrange(1, 7)) as hold:
            flight = trial.launch()
            hold.reached()
            killed = cluster.kill_now(victim)
    later = _ask_again(trial, killed.at + AVOIDED_S)
    outcomes = flight.land()
    if not sum(attempts(out) > 1 for out in outcomes):
        raise FaultMissing("no stream was on the victim")
    trial.judge(outcomes)
    trial.took(max(silence(out, killed.at) for out in outcomes))
    if later.error or attempts(later) != 1:
        trial.problem(f"{AVOIDED_S:g} s after the kill: {later.error}, {attempts(later)} attempts")
    trial.sweep(max(out.ended for out in (*outcomes, later)))


def _both_write(cluster: HurtCluster, flight: Flight, rng: random.Random, least: int) -> None:
    """Wait for a random moment at which both decode nodes have ``least`` requests in hand."""
    goal = rng.randrange(len(flight.outcomes), len(flight.outcomes) * 16)

    def now(outcomes: list[Outcome]) -> bool:
        live = [cluster.gauge(name, "live") for name in cluster.of("decode")]
        return sum(out.count for out in outcomes) >= goal and min(live) >= least

    if not flight.until(now, 60):
        raise FaultMissing(f"the decode nodes never had {least} requests each")


def _ask_again(trial: Trial, at: float) -> Outcome:
    time.sleep(max(0.0, at - time.monotonic()))
    return stream(trial.cluster.url, trial.asks[0])


# --- F2: kill -9 the only one -------------------------------------------------------------------------------


def the_only_one_killed(plan: Plan) -> Row:
    row = Row("F2", "kill -9 the only decode node, in each phase", bound_s=10.0)
    return repeat(row, plan, (), mixed(16, tokens=32, seed=plan.seed), _kill_the_only_one, side_by_side=2)


def _kill_the_only_one(trial: Trial, rng: random.Random, number: int) -> None:
    cluster, (victim,) = trial.cluster, trial.cluster.of("decode")
    phase = list(PHASES)[number % len(PHASES)]
    with cluster.hold(victim, phase, rng.randrange(1, 7)) as hold:
        flight = trial.launch()
        hold.reached()
        if not flight.under_way():
            raise FaultMissing("all streams had ended")
        killed = cluster.kill_now(victim)
    _refused_at_once(trial)
    outcomes = flight.land()
    trial.judge(outcomes, errors=("worker_lost",))
    trial.took(max(out.ended for out in outcomes) - killed.at)
    cluster.until(cluster.whole, RESTART_S)
    asked = time.monotonic()
    found = stream(cluster.url, trial.asks[0])
    if not found.equals(trial.expected[0]) or found.ended - asked > BACK_S:
        trial.problem(f"after its return: {found.error} in {found.ended - asked:.1f} s")
    trial.sweep(found.ended)


def _refused_at_once(trial: Trial) -> None:
    """Once the loss is known, a new request gets 503 and Retry-After at once."""
    url = trial.cluster.url
    trial.cluster.until(lambda: httpx.get(f"{url}/ready").status_code == 503, 5)
    took = []
    for _ in range(5):
        out = stream(url, trial.asks[0])
        took.append(out.ended - out.started)
        if out.error != "http 503" or out.retry_after is None:
            trial.problem(f"without a decode node: {out.error}, Retry-After {out.retry_after}")
    if sorted(took)[2] > REFUSED_S:
        trial.problem(f"refused after {sorted(took)[2] * 1000:.0f} ms")


# --- F5: SIGSTOP for a second -------------------------------------------------------------------------------


def stopped_for_a_second(plan: Plan) -> Row:
    row = Row("F5", "SIGSTOP a decode node for 1 s, in each phase: nobody gives it up")
    return repeat(row, plan, (), mixed(16, tokens=32, seed=plan.seed), _stop_a_second, side_by_side=2)


def _stop_a_second(trial: Trial, rng: random.Random, number: int) -> None:
    cluster, (victim,) = trial.cluster, trial.cluster.of("decode")
    phase = list(PHASES)[number % len(PHASES)]
    counted = ("pagewire:request_retries_total", "pagewire:nodes_lost_total")
    before = [cluster.metric(name) for name in counted]
    with cluster.hold(victim, phase, rng.randrange(1, 7)) as hold:
        flight = trial.launch()
        hold.reached()
        with cluster.stop_now(victim) as stopped:
            hold.release()
            stopped.last(1.0)
            seen = [len(out.times) for out in flight.outcomes]
            stopped.last(1.05)
            if seen != [len(out.times) for out in flight.outcomes]:
                raise FaultMissing("tokens came from a stopped node")
        woken = stopped.wake()
    outcomes = flight.land()
    trial.judge(outcomes)
    trial.took(max(silence(out, woken) for out in outcomes))
    if (now := [cluster.metric(name) for name in counted]) != before:
        trial.problem(f"retries and lost nodes: {before} -> {now}")
    trial.sweep(max(out.ended for out in outcomes))


# --- F6: SIGSTOP for half a minute --------------------------------------------------------------------------


def stopped_for_long(plan: Plan) -> Row:
    row = Row("F6", f"SIGSTOP one of 2 decode nodes for {STOP_S:g} s, in each phase", bound_s=8.0)
    asks = mixed(16, tokens=32, seed=plan.seed)
    return repeat(row, plan, TWO, asks, _stop_one, side_by_side=4)


def _stop_one(trial: Trial, rng: random.Random, number: int) -> None:
    cluster, victim = trial.cluster, rng.choice(trial.cluster.of("decode"))
    phase = list(PHASES)[number % len(PHASES)]
    epoch = cluster.nodes()[victim]["epoch"]
    with cluster.hold(victim, phase, rng.randrange(1, 7)) as hold:
        flight = trial.launch()
        hold.reached()
        with cluster.stop_now(victim) as stopped:
            hold.release()
            outcomes = flight.land()
            if not any(attempts(out) > 1 for out in outcomes):
                raise FaultMissing("no stream was on the victim")
            if victim in cluster.nodes():
                trial.problem("the stopped node was not given up")
            stopped.last(STOP_S)
        woken = stopped.wake()
    trial.judge(outcomes)
    trial.took(max(silence(out, stopped.at) for out in outcomes))
    if cluster.freed(woken, 5.0) is None:
        trial.problem(f"5 s after SIGCONT: {cluster.still_held(woken)}")
    _used_again(trial, victim, epoch)


def _used_again(trial: Trial, victim: str, epoch: str) -> None:
    """The woken node joins again, in the same life, and takes its share."""
    cluster = trial.cluster
    cluster.until(cluster.whole, 10)
    if cluster.nodes()[victim]["epoch"] != epoch:
        raise FaultMissing(f"{victim} restarted")
    salt, trial.salt = trial.salt, f"{trial.salt}, woken"
    outcomes = trial.launch(trial.asks[:6]).land()
    trial.judge(outcomes)
    if not any(out.node("decode") == victim for out in outcomes):
        trial.problem("the woken node got nothing to do")
    trial.sweep(max(out.ended for out in outcomes))
    trial.salt = salt


SCENARIOS: dict[str, Scenario] = {
    **{
        name: partial(one_of_two_killed, name=name, phase=phase)
        for name, phase in zip(("F1a", "F1b", "F1c", "F1d", "F1"), PHASES, strict=True)
    },
    "F2": the_only_one_killed,
    "F5": stopped_for_a_second,
    "F6": stopped_for_long,
}
