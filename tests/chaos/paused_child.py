"""A child of ``pagewire serve`` that can be held at an exact point of a request's life, for tests only.

    python paused_child.py ROLE NAME        with PAGEWIRE_CHAOS=FOLDER, started by ``paused_serve.py``

It is ``pagewire.cli.child`` with a few methods wrapped from outside: the product has no hooks. Where FOLDER
has a file NAME.PHASE, the node's loop stops at the next pass through that phase (after as many as the file
says), writes NAME.PHASE.held and sleeps until NAME.PHASE is gone. Its mailbox and the wire run on threads of
their own and go on: to the others the node lives, until a test kills or stops it at exactly that point.
It also writes down its load, NAME.load, as often as its loop reports one, so that what a node holds is known
without a router.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.pop(0)  # our own folder: product code finds what it finds when it is started by itself

from pagewire.cli import child, roles
from pagewire.messages import DECODE, PREFILL, Load

REPORT_S = 0.02
When = Callable[..., bool]


class Gate:
    """Where the loop waits while its phase is closed."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._passed: dict[str, int] = {}
        self._reported = 0.0

    def enter(self, phase: str) -> None:
        closed = self._folder / f"{self._name}.{phase}"
        try:
            after = int(closed.read_text() or 0)
        except FileNotFoundError:
            self._passed.pop(phase, None)
            return
        self._passed[phase] = self._passed.get(phase, 0) + 1
        if self._passed[phase] > after:
            self._write(f"{closed.name}.held", {"pid": os.getpid(), "at": time.monotonic()})
            while closed.exists():
                time.sleep(0.002)

    def report(self, load: Load) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_S:
            self._reported = now
            self._write(f"{self._name}.load", {"pid": os.getpid(), "at": now, **asdict(load)})

    def _write(self, name: str, what: dict[str, Any]) -> None:
        """Readers see all of it or nothing."""
        part = self._folder / f"{name}~"
        with suppress(FileNotFoundError):  # the test is over, and its folder gone
            part.write_text(json.dumps(what))
            part.rename(self._folder / name)


def before(gate: Gate, owner: type, name: str, phase: str, when: When | None = None) -> None:
    """Calls of ``owner.name`` wait at ``phase`` first, where ``when`` says so of their arguments."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def held(*args: Any, **more: Any) -> Any:
        if when is None or when(*args, **more):
            gate.enter(phase)
        return real(*args, **more)

    setattr(owner, name, held)


def after(gate: Gate, owner: type, name: str, phase: str, when: When | None = None) -> None:
    """The same, once the call is done."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def held(*args: Any, **more: Any) -> Any:
        result = real(*args, **more)
        if when is None or when(*args, **more):
            gate.enter(phase)
        return result

    setattr(owner, name, held)


def wrap_prefill(gate: Gate) -> None:
    """queued -> prefill -> transfer -> commit -> committed"""
    from kv_transfer import Sender, wire
    from kv_transfer.sender_actions import SenderActions
    from pagewire.engine.runner import ModelRunner

    def data(_: Any, __: Any, message: Any, *___: Any) -> bool:
        return isinstance(message, wire.Data) and message.seq > 0  # the first part is on its way

    def commit(_: Any, __: Any, message: Any, *___: Any) -> bool:
        return isinstance(message, wire.Commit)

    before(gate, Sender, "reserve", "queued")
    before(gate, ModelRunner, "forward", "prefill")
    before(gate, SenderActions, "send", "transfer", data)
    before(gate, SenderActions, "send", "commit", commit)
    after(gate, SenderActions, "send", "committed", commit)


def wrap_decode(gate: Gate) -> None:
    """reserve -> transfer -> commit -> adopted -> decode"""
    from kv_transfer import Receiver
    from kv_transfer.protocol import Event
    from kv_transfer.receiver_actions import ReceiverActions
    from pagewire.engine.runner import ModelRunner

    def data(_: Any, __: Any, event: Any, message: Any = None, *___: Any) -> bool:
        return event is Event.DATA and message.seq > 0  # part of the prompt is written already

    before(gate, Receiver, "grant", "reserve")
    before(gate, ReceiverActions, "fire", "transfer", data)
    before(gate, Receiver, "adopt", "commit")
    after(gate, Receiver, "adopt", "adopted")
    before(gate, ModelRunner, "forward", "decode")


def main() -> None:
    role, name = sys.argv[1:]
    gate = Gate(Path(os.environ["PAGEWIRE_CHAOS"]), name)
    real = roles.run

    def run(
        options: roles.Options,
    ) -> None:  # here, after the lifeline is watched, may be loaded what is heavy
        if role in (PREFILL, DECODE):
            from pagewire.mailbox import NodeMailbox

            (wrap_prefill if role == PREFILL else wrap_decode)(gate)
            report = NodeMailbox.report

            def written(self: NodeMailbox, load: Load) -> None:
                gate.report(load)
                report(self, load)

            NodeMailbox.report = written  # type: ignore[method-assign]
        real(options)

    roles.run = run
    child.main()


if __name__ == "__main__":
    main()
