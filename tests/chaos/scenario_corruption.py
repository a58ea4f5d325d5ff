"""F19: KV that is damaged between prefill and decode, with tokens as the oracle.

A real cluster whose prefill node damages frames after their checksums were made (``damaging``), over tcp and
shared memory. Pass: every damage is found before a token is decoded from it, and every reply either equals
the one without damage, or ends with an error by name; never 200 with other tokens.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import here  # noqa: F401
from cluster import HANDS_OVER, Cluster, tiny_folder
from hostile import until
from prompts import draw
from report import FaultMissing, Plan, Row, Scenario
from streams import Ask, Outcome, oracle, run_all

PROMPT, NEW = 48, 6
NAMED = {"request_failed", "worker_lost", "unavailable", "corrupt", "stalled", "mismatch"}


class Damaged(Cluster):
    """A cluster whose prefill node damages what it sends while ``folder``/on exists."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.args = args
        self.folder = folder
        self.log = tempfile.NamedTemporaryFile("w+", prefix="pagewire-test-", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("damaging.py")),
                "serve",
                *HANDS_OVER,
                *args,
                "--port",
                "0",
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PAGEWIRE_DAMAGE": str(folder)},
        )
        self.url = ""
        self.children = {}

    def done(self) -> Counter[str]:
        """What was damaged, by its kind."""
        file = self.folder / "done"
        return Counter(file.read_text().split()) if file.exists() else Counter()

    def count(self, name: str) -> int:
        return int(sum(gauges.get(f"transfer_{name}", 0) for gauges in self.gauges().values()))


def f19(plan: Plan) -> Row:
    row = Row("F19", "a bit flipped in each of 1,000 pages' frames; swapped, dropped, doubled, cut short")
    _damage(row, plan, "tcp", plan.count(750, 20), flips=False)
    _damage(row, plan, "shm", plan.count(250, 10), flips=True)
    return row


def _damage(row: Row, plan: Plan, transport: str, wanted: int, *, flips: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="pagewire-damage-") as name:
        folder = Path(name)
        model = str(tiny_folder(folder / "tiny"))
        flags = ("--load-format", "dummy", "--no-prefix-caching", "--kv-cache-memory", "64MiB")
        with Damaged(folder, model, *flags, "--transport", transport) as cluster:
            asks = [_ask(number) for number in range(40)]
            expected = oracle(cluster.url, asks, threads=8)
            if flips:
                (folder / "flips").touch()
            (folder / "on").touch()
            found: list[tuple[Outcome, Outcome]] = []
            while sum(cluster.done().values()) < wanted:
                before = sum(cluster.done().values())
                found += zip(run_all(cluster.url, asks, threads=16), expected, strict=True)
                plan.step(f"{transport}: {sum(cluster.done().values())} of {wanted} damaged")
                if sum(cluster.done().values()) == before:
                    raise FaultMissing("nothing was damaged")
            (folder / "on").unlink()
            _judge(row, cluster, found, transport)


def _ask(number: int) -> Ask:
    sampled = {"temperature": 0.8, "seed": number} if number % 2 else {"temperature": 0.0}
    return Ask([draw(4000, number + 1, i) for i in range(PROMPT + number)], {"max_tokens": NEW, **sampled})


def _judge(row: Row, cluster: Damaged, found: list[tuple[Outcome, Outcome]], transport: str) -> None:
    done, other = cluster.done(), [(got, want) for got, want in found if not got.equals(want)]
    equal = len(found) - len(other)
    named = sum(got.code in NAMED and got.begins(want) for got, want in other)
    broken = done["flip"] + done["swap"]
    until(lambda: cluster.count("corrupt") >= broken, 5, f"{broken} damaged bodies counted as corrupt")
    corrupt, doubled = cluster.count("corrupt"), cluster.count("duplicate")
    row.runs += 1
    row.verified += 1
    row.units += len(found)
    row.equal += equal
    row.named += named
    if corrupt != broken or doubled < done["duplicate"]:
        row.problems.append(f"{transport}: {dict(done)} done; {corrupt} corrupt, {doubled} duplicate counted")
    codes = dict(Counter(str(got.code or got.error) for got, _ in other))
    cluster.until_nothing_is_held()
    row.notes.append(
        f"{transport}: {dict(done)} damaged in {len(found)} requests: {corrupt} counted as corrupt, "
        f"{doubled} as duplicate; {equal} replies equal, {named} ended by name {codes or ''}"
    )


SCENARIOS: dict[str, Scenario] = {"F19": f19}
