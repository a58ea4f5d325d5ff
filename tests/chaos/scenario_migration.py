"""F31: sampled requests are moved to another decode node at every output token from 0 to 64.

The nodes keep from the router every token from a chosen index on (``marks``), so that exactly so many have
reached it when the decode node is killed. That this was so is read from what the router then sent: the next
attempt at that choice must carry exactly that many tokens.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil
from marks import Mark
from report import FaultMissing, Plan, Row, Scenario
from watched import Trace, Watched, watched
from whole import Whole, ask_all, start

from pagewire.hub import resolve
from pagewire.text.tokenizer import Tokenizer, load_tokenizer

POINTS = 65
MAX_TOKENS = 72
AGAIN = 7  # tokens between the two moves of a request that is moved twice
ROUND = 13  # points under way at once
PARAMS: dict[str, Any] = {
    "max_tokens": MAX_TOKENS,
    "temperature": 0.8,
    "top_p": 0.9,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.3,
    "logprobs": 2,
    "ignore_eos": True,
}
STUCK_S = 180.0


@dataclass(slots=True)
class Case:
    """A request that is to be moved when ``mark.cut`` tokens of a choice are out, and then perhaps again."""

    mark: Mark
    body: dict[str, Any]
    expected: Whole = field(default_factory=Whole)
    found: Whole | None = None

    @property
    def point(self) -> int:
        assert self.mark.cut is not None
        return self.mark.cut

    def limit(self, move: Move) -> int | None:
        """The tokens after which that attempt stands still, if it does."""
        if move.attempt == 0:
            return self.mark.cut
        return self.mark.again if move.emitted == self.mark.cut else None

    def moves(self) -> set[tuple[int, int]]:
        """(choice, tokens out) of each move. A choice that ends before is not moved."""
        cuts = [cut for cut in (self.mark.cut, self.mark.again) if cut is not None]
        parts = self.expected.parts.items()
        return {(choice, cut) for choice, part in parts for cut in cuts if len(part.tokens) > cut}


def migration(plan: Plan) -> Row:
    row = Row("F31", "a sampled request moves at every token 0..64", unit="points")
    kinds, moves = Counter[str](), 0
    with watched("--decode", "2", "--kv-cache-memory", "64MiB", "--recovery-timeout", "60") as cluster:
        cases = prepared(cluster, cases_of(plan))
        for number, batch in enumerate(_rounds(cases)):
            plan.step(f"points {batch[0].point} to {batch[-1].point}")
            signals = (signal.SIGKILL, signal.SIGTERM)[number % 2]
            kinds[signals.name] += migrate(cluster, batch, signals, row)
            row.leaked += len(cluster.left_over())
        moves = judge(cluster, cases, row)
    row.notes.append(
        f"{len(cases)} requests, {moves} moves of a choice at the exact token; ended: {dict(kinds)}"
    )
    return row


# --- requests -----------------------------------------------------------------------------------------------


def cases_of(plan: Plan) -> list[Case]:
    """Four requests a point: one choice; two to four; one with a stop string; two, moved twice."""
    rng = random.Random(f"{plan.seed}/migration")
    count = plan.count(POINTS, least=5)
    points = sorted({round(i * (POINTS - 1) / (count - 1)) for i in range(count)})
    cases = []
    for point in points:
        for kind, n in enumerate((1, 2 + point % 3, 1, 2)):
            mark = Mark(rng.getrandbits(32), cut=point, again=point + AGAIN if kind == 3 else None)
            prompt = [rng.randrange(1000, 40000) for _ in range(rng.randrange(10, 300))]
            body = PARAMS | {"prompt": prompt, "n": n, "seed": mark.seed}
            if kind == 2:
                body["include_stop_str_in_output"] = bool(point % 2)
            cases.append(Case(mark, body))
    return cases


def prepared(cluster: Watched, cases: list[Case]) -> list[Case]:
    """Find stop strings that lie across the point, and what each request gives with no fault."""
    tokenizer = load_tokenizer(resolve("demo"))
    stopping = [case for case in cases if "include_stop_str_in_output" in case.body]
    for case, whole in zip(stopping, _ask(cluster, stopping), strict=True):
        case.body["stop"] = [stop_across(tokenizer, whole.parts[0].tokens, whole.parts[0].text, case.point)]
    for case, whole in zip(cases, _ask(cluster, cases), strict=True):
        assert whole.error is None, whole.error
        assert whole.terminals == 1
        case.expected = whole
    cluster.until_nothing_is_held()
    return cases


def stop_across(tokenizer: Tokenizer, tokens: list[int], text: str, point: int) -> str:
    """A string that first occurs in ``text`` from just before token ``point`` to just behind it, or later."""
    for at in range(max(point, 1), len(tokens)):
        offset = len(tokenizer.decode(tokens[:at], skip_special_tokens=True))
        stop = text[max(0, offset - 2) : offset + 2]
        if "\ufffd" not in stop and len(stop) == 4 and text.find(stop) == offset - 2:
            return stop
    return "no such string"


def _ask(cluster: Watched, cases: Sequence[Case]) -> list[Whole]:
    return ask_all(cluster.url, [case.body for case in cases], 32)


# --- the fault ----------------------------------------------------------------------------------------------


def _rounds(cases: list[Case]) -> list[list[Case]]:
    by_point = defaultdict(list)
    for case in cases:
        by_point[case.point].append(case)
    points = sorted(by_point)
    groups = [points[i : i + ROUND] for i in range(0, len(points), ROUND)]
    return [[case for point in group for case in by_point[point]] for group in groups]


def migrate(cluster: Watched, cases: list[Case], number: signal.Signals, row: Row) -> int:
    """Run ``cases``, ending whichever decode node has requests that wait for nothing else. How often."""
    began, progress, ended = time.monotonic(), Progress(cluster.trace), 0
    with cluster.armed(), ThreadPoolExecutor(len(cases)) as pool:
        futures = start(pool, cluster.url, [case.body | {"cache_salt": "moved"} for case in cases])
        while victim := _next_victim(cluster, progress, cases, futures):
            _end(cluster, victim, number)
            progress.ended[victim] = time.monotonic()
            ended += 1
        for case, future in zip(cases, futures, strict=True):
            case.found = future.result()
    row.took(max(case.found.ended for case in cases if case.found) - began)
    return ended


def _next_victim(
    cluster: Watched, progress: Progress, cases: list[Case], futures: list[Future[Whole]]
) -> str | None:
    """Wait until all requests either have ended or go on nowhere: the node that has most of the latter."""
    end = time.monotonic() + STUCK_S
    while time.monotonic() < end:
        progress.read()
        going = [case for case, future in zip(cases, futures, strict=True) if not future.done()]
        if not going:
            return None
        stuck = Counter(where for case in going if (where := progress.stuck_at(case)))
        if stuck.total() == len(going) and cluster.complete():
            return stuck.most_common(1)[0][0]
        time.sleep(0.05)
    raise FaultMissing(f"{len(going)} requests neither end nor reach their point, {stuck.total()} do")


class Move(NamedTuple):
    """An attempt at a choice: where it decodes, and how many tokens it began with."""

    at: float
    request: str
    attempt: int
    where: str
    emitted: int


class Progress:
    """Where each choice is, from the trace. ``ended`` says when a node was last ended by us."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._newest: dict[int, dict[int, Move]] = defaultdict(dict)  # by seed, by choice
        self._kept: set[tuple[str, int, int]] = set()
        self.ended: dict[str, float] = {}

    def read(self) -> None:
        for line in self._trace.read():
            match line.kind, line.facts:
                case "open", {"request": request, "attempt": attempt, "decode": where, "emitted": out}:
                    for choice in line.facts["choices"]:
                        self._newest[line.facts["seed"]][choice] = Move(line.at, request, attempt, where, out)
                case "tokens", {"kept": kept}:
                    self._kept |= {(request, attempt, choice) for request, attempt, choice, _ in kept}

    def stuck_at(self, case: Case) -> str | None:
        """A node that keeps back a token of each choice of ``case`` that is to be moved yet."""
        waiting = [
            (choice, move)
            for choice, move in self._newest[case.mark.seed].items()
            if (limit := case.limit(move)) is not None and len(case.expected.parts[choice].tokens) > limit
        ]
        if not waiting or not all(self._caught(choice, move) for choice, move in waiting):
            return None
        return waiting[0][1].where

    def _caught(self, choice: int, move: Move) -> bool:
        kept = (move.request, move.attempt, choice) in self._kept
        return kept and move.at > self.ended.get(move.where, 0.0)


def _end(cluster: Watched, name: str, number: signal.Signals) -> None:
    """End the node, verified: the process is gone."""
    cluster.note_children()
    victim = psutil.Process(cluster.pid(name))
    victim.send_signal(number)
    _, alive = psutil.wait_procs([victim], 10)
    if alive:
        raise FaultMissing(f"{name} did not end on {number.name}")


# --- the verdict --------------------------------------------------------------------------------------------


def judge(cluster: Watched, cases: list[Case], row: Row) -> int:
    """Fill ``row`` by point. Returns how many choices were moved, each counted as often as it was."""
    cluster.trace.read()
    opened: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for line in cluster.trace.of("open"):
        if line.facts["attempt"] > 0:
            opened[line.facts["seed"]] += [(c, line.facts["emitted"]) for c in line.facts["choices"]]
    by_point = defaultdict(list)
    for case in cases:
        by_point[case.point].append(case)
    moves = 0
    for members in by_point.values():
        row.runs += 1
        row.units += 1
        moves += sum(len(case.moves()) for case in members)
        exact = [set(opened[case.body["seed"]]) == case.moves() for case in members]
        row.verified += all(exact) and all(case.moves() for case in members if "stop" not in case.body)
        row.equal += all(case.found == case.expected for case in members)
        for case in members:
            _complain(case, opened[case.body["seed"]], row)
    return moves


def _complain(case: Case, opened: list[tuple[int, int]], row: Row) -> None:
    name = f"point {case.point}, n {case.body['n']}, seed {case.body['seed']}"
    if set(opened) != case.moves():
        row.problems.append(f"{name}: moved at {sorted(opened)}, not at {sorted(case.moves())}")
    if case.found != case.expected:
        row.problems.append(f"{name}: {difference(case)}")


def difference(case: Case) -> str:
    """The first thing in which what came is not what should have come."""
    found, expected = case.found, case.expected
    assert found is not None
    if found.error or found.terminals != 1:
        return f"error {found.error}, {found.terminals} terminal events"
    for choice, part in expected.parts.items():
        got = found.parts.get(choice)
        for name in part.__dataclass_fields__:
            if (left := getattr(got, name, None)) != (right := getattr(part, name)):
                return f"choice {choice}, {name}: {left!r:.300} instead of {right!r:.300}"
    return f"usage {found.usage} instead of {expected.usage}"


SCENARIOS: dict[str, Scenario] = {"F31": migration}
