"""F21: peers of another version, KV layout, dtype or other weights, at the mailbox and at the handoff.

Pass: each is refused with a reason that names the difference within 1 s, is never part of the fleet, and a
real node ends with that reason; a neighbouring minor version is welcome, with its own messages. That such
nodes work together is held by ``tests/e2e/test_version_skew.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import here  # noqa: F401
import msgpack
import zmq
from cluster import tiny_folder
from doors import MailboxDoor, door, hello
from hostile import Link, secret_file, until
from report import Plan, Row, Scenario
from victim import SMALL, Victim

from kv_transfer import wire
from kv_transfer.wire import TransferId, checksum
from pagewire import __version__
from pagewire.codec import seal
from pagewire.mailbox import SPEAKS, TO_NODE, NodeMailbox
from pagewire.messages import Hello
from pagewire.secret import apply_client
from pagewire.versions import LEVEL, release_of

BOUND_S = 1.0
SPEECH = SPEAKS.partition("+")[2]

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another major": ({"version": f"77.0.0+{SPEECH}"}, "version 77.0.0"),
    "a minor two away": (
        {"version": f"{release_of(LEVEL + 2)}.0+{SPEECH}"},
        f"version {release_of(LEVEL + 2)}.0",
    ),
    "other messages": ({"version": f"{__version__}+00000000"}, f"version {__version__}+00000000"),
    "no version": ({"version": "?"}, "version ?"),
    "other layers": ({"layout": replace(SMALL, layers=3)}, "layers"),
    "other heads": ({"layout": replace(SMALL, kv_heads=2)}, "kv_heads"),
    "another head size": ({"layout": replace(SMALL, head_dim=64)}, "head_dim"),
    "another dtype": ({"layout": replace(SMALL, dtype="bfloat16")}, "dtype"),
    "other weights": ({"layout": replace(SMALL, model="victim-2")}, "model"),
}


def f21(plan: Plan) -> Row:
    row = Row("F21", "other versions, layouts, dtypes and weights", unit="peers", bound_s=BOUND_S)
    with secret_file() as file, door(MailboxDoor, file) as at:
        assert isinstance(at, MailboxDoor)
        for _ in range(plan.repeats):
            for name, (changes, word) in WRONG.items():
                _refused(row, at, name, hello("prefill", **changes), word)
            _foreign(row, at)
            _welcome(row, at)
        row.notes.append(_real_node(row, at, file))
        if sick := at.sick():
            row.problems.append(sick)
    with (
        secret_file() as file,
        Victim("receiver", "tcp://127.0.0.1:*", file) as victim,
        Link(victim, file.read_bytes()) as link,
    ):
        for _ in range(plan.repeats):
            _at_the_handoff(row, victim, link)
    return row


def _passed(row: Row, what: str, began: float, reason: str, word: str) -> None:
    took = time.monotonic() - began
    row.took(took)
    if took > BOUND_S:
        row.notes.append(f"{what}: {took:.2f} s")
    row.runs, row.verified, row.units = row.runs + 1, row.verified + 1, row.units + 1
    row.named += word in reason
    if word not in reason:
        row.problems.append(f"{what}: refused with {reason!r}")


def _refused(row: Row, at: MailboxDoor, what: str, wrong: Hello, word: str) -> None:
    reasons: list[str] = []
    began = time.monotonic()
    node = NodeMailbox(wrong, [f"tcp://127.0.0.1:{at.port}"], at.secret, refused=reasons.append)
    until(lambda: reasons, 10, f"{what} is refused")
    _passed(row, what, began, reasons[0], word)
    if not at._joined():  # the fleet is the healthy node, and nobody else
        row.problems.append(f"{what} is part of the fleet")
    node.close()


def _foreign(row: Row, at: MailboxDoor) -> None:
    """A Hello with a field that we do not know: even so, the reason is the version."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    one = context.socket(zmq.DEALER)
    one.setsockopt(zmq.IDENTITY, b"prefill-x/e")
    apply_client(one, at.secret, "prefill", "router")
    one.connect(f"tcp://127.0.0.1:{at.port}")
    began = time.monotonic()
    fields = asdict(hello("prefill", version="7.0.0")) | {"colour": "green"}
    one.send(seal(msgpack.packb([7000, "Hello", fields])))
    until(lambda: one.poll(0), 10, "an answer to a Hello of another version")
    _passed(row, "a Hello of another shape", began, TO_NODE.decode(one.recv()).refused, "version 7.0.0")
    one.close(linger=0)
    context.term()


def _welcome(row: Row, at: MailboxDoor) -> None:
    """A neighbouring minor version joins, though its messages are others."""
    began = time.monotonic()
    node = NodeMailbox(
        hello("prefill", version=f"{release_of(LEVEL + 1)}.0+00000000"),
        [f"tcp://127.0.0.1:{at.port}"],
        at.secret,
    )
    until(lambda: not at._joined(), 10, "the neighbour joins")
    row.took(time.monotonic() - began)
    row.runs, row.verified = row.runs + 1, row.verified + 1
    row.units, row.equal = row.units + 1, row.equal + 1
    node.close()
    until(at._joined, 10, "the neighbour is gone")


def _real_node(row: Row, at: MailboxDoor, secret: Path) -> str:
    """A real node whose model is not that of the fleet ends with the reason."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        model = str(tiny_folder(Path(folder) / "tiny"))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pagewire.cli.main", "prefill", model, "--load-format", "dummy"),
                *("--router", f"tcp://127.0.0.1:{at.port}", "--cluster-secret-file", str(secret)),
                *("--kv-cache-memory", "32MiB"),
            ],
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},
        )
        said = (Path(folder) / "log").read_text
        until(lambda: "ready" in said() or process.poll() is not None, 90, "the node is ready")
        began = time.monotonic()
        until(lambda: "KV layout differs" in "".join(at.log()[-1:]), 10, "the router refuses the real node")
        _passed(row, "a real node", began, at.log()[-1], "KV layout differs")
        process.wait(20)
        took, words = time.monotonic() - began, " ".join(said().split())
        if process.returncode == 0 or "the router refused this node: KV layout differs" not in words:
            row.problems.append(f"the refused node ended with {process.returncode}: {words[-300:]}")
        return f"a real node ended with code {process.returncode} {took:.2f} s after it was ready"


def _at_the_handoff(row: Row, victim: Victim, link: Link) -> None:
    layouts = {"dtype": "bfloat16", "layers": 3, "kv_heads": 2, "head_dim": 64, "model": "victim-2"}
    for field, value in layouts.items():
        transfer = TransferId(f"{row.units:032x}")
        layout = replace(SMALL, **{field: value})
        began = time.monotonic()
        link.say(wire.Reserve(transfer, "e", 4, layout, 9000, checksum(b"")))
        answer = link.until(wire.Refuse)
        _passed(row, f"handoff: another {field}", began, f"{answer.code}: {answer.reason}", f"{field} ")
    before, began = victim.ask()["counts"]["version"], time.monotonic()
    head = bytearray(wire.encode(wire.Abort(TransferId("0" * 32), "e", "c", "r")))
    head[4] = 2
    link.send(bytes(head))
    until(lambda: victim.ask()["counts"]["version"] > before, 5, "another major of the handoff is counted")
    until(lambda: any("version 2.0" in line for line in victim.log), 5, "and named in the log")
    _passed(row, "handoff: another major", began, "version", "version")


SCENARIOS: dict[str, Scenario] = {"F21": f21}
