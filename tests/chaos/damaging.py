"""``pagewire serve`` whose prefill nodes damage frames on their way out, for tests only.

    PAGEWIRE_DAMAGE=FOLDER python damaging.py serve ...

While FOLDER/on exists, every second transfer is damaged once, after its checksums were made: a bit of a DATA
frame's body flipped, two bodies swapped, a frame dropped, sent twice or cut short. Each damage done is a line
in FOLDER/done. With FOLDER/flips bits are flipped, and nothing else is done.
"""

from __future__ import annotations

import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

_KINDS = ("flip",) * 92 + ("swap",) * 3 + ("duplicate",) * 3 + ("drop", "truncate")


class Damage:
    """What is done to which transfer. ``send`` is the wire's own."""

    def __init__(self, folder: Path, send: Any) -> None:
        self._folder, self._send = folder, send
        self._rng = random.Random(len(folder.name))
        self._plan: dict[str, str] = {}  # transfer -> what is yet to be done to it
        self._held: dict[str, tuple[bytes, bytes]] = {}

    def __call__(self, wires: Any, peer: Any, head: bytes, body: Any) -> bool:
        from kv_transfer import wire

        message = wire.decode(head, body)
        if isinstance(message, wire.Commit) and message.transfer in self._held:
            self._send(wires, peer, *self._held.pop(message.transfer))  # there was nothing to swap it with
        if not isinstance(message, wire.Data):
            return bool(self._send(wires, peer, head, body))
        kind = self._plan.setdefault(message.transfer, self._draw())
        done = bool(getattr(self, f"_{kind or 'leave'}")(wires, peer, message.transfer, head, body))
        if kind and done and message.transfer not in self._held:
            self._plan[message.transfer] = ""
        return done

    def _draw(self) -> str:
        if not (self._folder / "on").exists() or self._rng.random() < 0.5:
            return ""
        return "flip" if (self._folder / "flips").exists() else self._rng.choice(_KINDS)

    def _note(self, kind: str) -> None:
        with (self._folder / "done").open("a") as file:
            file.write(kind + "\n")

    def _leave(self, wires: Any, peer: Any, transfer: str, head: bytes, body: Any) -> bool:
        return bool(self._send(wires, peer, head, body))

    def _flip(self, wires: Any, peer: Any, transfer: str, head: bytes, body: Any) -> bool:
        bit = self._rng.randrange(len(body) * 8)
        body[bit // 8] ^= 1 << bit % 8
        if not self._send(wires, peer, head, body):
            return False
        self._note("flip")
        return True

    def _swap(self, wires: Any, peer: Any, transfer: str, head: bytes, body: Any) -> bool:
        if transfer not in self._held:
            self._held[transfer] = head, bytes(body)
            return True
        first_head, first = self._held.pop(transfer)
        if len(first) == len(body):
            first, body = bytes(body), first
            self._note("swap")
        return bool(self._send(wires, peer, first_head, first)) and bool(self._send(wires, peer, head, body))

    def _drop(self, wires: Any, peer: Any, transfer: str, head: bytes, body: Any) -> bool:
        self._note("drop")
        return True

    def _duplicate(self, wires: Any, peer: Any, transfer: str, head: bytes, body: Any) -> bool:
        self._note("duplicate")
        copy = bytes(body)
        return bool(self._send(wires, peer, head, body)) and bool(self._send(wires, peer, head, copy))

    def _truncate(self, wires: Any, peer: Any, transfer: str, head: bytes, body: Any) -> bool:
        self._note("truncate")
        return bool(self._send(wires, peer, head, bytes(body)[:-2]))


def child() -> None:
    from kv_transfer.transports.choose import ByScheme
    from pagewire.cli.child import main

    damage = Damage(Path(os.environ["PAGEWIRE_DAMAGE"]), ByScheme.send)

    def send(wires: Any, peer: Any, head: bytes, body: Any) -> bool:
        return damage(wires, peer, head, body)

    ByScheme.send = send  # type: ignore[method-assign]
    main()


def serve() -> None:
    from pagewire.cli import local
    from pagewire.cli.main import main

    plain = local._spec

    def spec(role: str, name: str, *args: Any, **more: Any) -> Any:
        made = plain(role, name, *args, **more)
        return replace(made, argv=(sys.executable, __file__, role, name)) if role == "prefill" else made

    local._spec = spec
    main()


if __name__ == "__main__":
    sys.path.pop(0)
    serve() if sys.argv[1] == "serve" else child()
