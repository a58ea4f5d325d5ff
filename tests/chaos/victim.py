"""One end of a handoff in a process of its own, to be attacked: ``victim.py receiver|sender SECRETFILE ...``

A real ``Receiver`` or ``Sender`` over a real transport, with bytes instead of KV. It answers questions, one
JSON object a line: what it counted, what its pages hold, how much memory it has. The class ``Victim`` is the
parent's handle. Knows slots and hashes; knows no attack.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import here  # noqa: F401
import numpy as np
import psutil
import zmq
from kv_world import Store

from kv_transfer import (
    Done,
    Dropped,
    Granted,
    Landed,
    Limits,
    Lost,
    Receiver,
    Refused,
    Reserved,
    Sender,
    Timeouts,
    open_receiver,
    open_sender,
)
from pagewire.layout import KVLayout

SMALL = KVLayout(layers=2, kv_heads=1, head_dim=32, dtype="float16", model="victim")  # 256 bytes a token
LARGE = KVLayout(layers=4, kv_heads=4, head_dim=64, dtype="float16", model="victim")  # 4 KiB a token
LAYOUTS = {"small": SMALL, "large": LARGE}
SLOTS = 4096
WALL = 64  # the first slots are given to nobody
SEED = 7  # of the sender's store
KEPT = 24  # transfers whose pages stay as they landed


def limits(layout: KVLayout) -> Limits:
    return Limits(frame_bytes=16 * layout.token_bytes, credit_bytes=64 * layout.token_bytes)


class Decode:
    """Grants every reservation that fits, adopts what lands, and keeps the last of them as they are."""

    def __init__(self, receiver: Receiver, store: Store) -> None:
        self.receiver, self.store = receiver, store
        self.free = list(range(WALL, SLOTS))
        self.open: dict[str, np.ndarray[Any, Any]] = {}
        self.kept: deque[tuple[np.ndarray[Any, Any], str]] = deque()
        self.landed: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.strays = 0  # writes to slots that no open transfer has
        self.store.check = self._check

    def _check(self, slots: np.ndarray[Any, Any]) -> None:
        owned = any(np.isin(slots, own).all() for own in self.open.values())
        self.strays += not owned

    def turn(self, now: float) -> bool:
        events = self.receiver.poll(now)
        for event in events:
            match event:
                case Reserved(transfer, num_tokens=tokens):
                    self._grant(transfer, tokens)
                case Landed(transfer):
                    self._adopt(transfer)
                case Dropped(transfer, code):
                    self.dropped[transfer] = code
                    self._release(self.open.pop(transfer, np.empty(0, np.int64)))
        return bool(events)

    def _grant(self, transfer: Any, tokens: int) -> None:
        if tokens > len(self.free):
            self.receiver.refuse(transfer, "full", "no room", retryable=True)
            return
        self.open[transfer] = slots = np.array([self.free.pop() for _ in range(tokens)])
        self.receiver.grant(transfer, 0, slots)

    def _adopt(self, transfer: Any) -> None:
        self.receiver.adopt(transfer)
        slots = self.open.pop(transfer)
        self.landed[transfer] = _hash(self.store.tokens(slots))
        self.kept.append((slots, self.landed[transfer]))
        while len(self.kept) > KEPT:
            self._release(self.kept.popleft()[0])

    def _release(self, slots: np.ndarray[Any, Any]) -> None:
        self.free += slots.tolist()

    def report(self) -> dict[str, Any]:
        changed = sum(_hash(self.store.tokens(slots)) != before for slots, before in self.kept)
        changed += bool(self.store.kv[:, :, :WALL].any())
        return {
            "counts": asdict(self.receiver.counts),
            "open": self.receiver.open_transfers,
            "changed": changed + self.strays,
            "pages": _hash(self.store.kv.tobytes()),
            "landed": self.landed,
            "dropped": self.dropped,
            "unaccounted": SLOTS - WALL - len(self.free) - sum(map(len, self.open.values()))
            - sum(len(slots) for slots, _ in self.kept),
        }  # fmt: skip


class Prefill:
    """Does one transfer after the other to the address that it is told, ``tokens`` each."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.target: tuple[str, int] | None = None
        self.left = 0
        self.current: Any = None
        self.ended = {"done": 0, "lost": 0, "refused": 0}

    def start(self, address: str, tokens: int, times: int) -> None:
        """With ``times`` 0: none after the one that is under way."""
        self.left = times
        if times:
            self.target = (address, tokens)

    def turn(self, now: float) -> bool:
        if self.current is None and self.left and self.target is not None:
            self.left -= 1
            self.current = self.sender.reserve(*self.target, b"who", 20.0, now)
        events = self.sender.poll(now)
        for event in events:
            match event:
                case Granted(transfer) if transfer == self.current:
                    assert self.target is not None
                    tokens = self.target[1]
                    self.sender.publish(transfer, np.arange(tokens), tokens)
                    self.sender.commit(transfer, b"first", now)
                case Done() | Lost() | Refused() if event.transfer == self.current:
                    self.ended[type(event).__name__.lower()] += 1
                    self.current = None
        return bool(events)

    def report(self) -> dict[str, Any]:
        counts, open_transfers = asdict(self.sender.counts), self.sender.open_transfers
        return {"counts": counts, "open": open_transfers, "ended": self.ended, "left": self.left}


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def content(store: Store, tokens: int) -> str:
    """What the first ``tokens`` of a store must be when they have landed."""
    return _hash(store.tokens(np.arange(tokens)))


# --- the process --------------------------------------------------------------------------------------------


def main(role: str, secret_file: str, address: str, layout_name: str) -> None:
    logging.basicConfig(level="WARNING", format="%(message)s")
    layout = LAYOUTS[layout_name]
    secret = Path(secret_file).read_bytes() if secret_file else None
    asked: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_read, args=(asked,), daemon=True).start()
    side: Decode | Prefill
    if role == "receiver":
        store = Store(SLOTS, layout)
        store.kv.fill(0)  # all of it is there from the start, so that what grows later is not the pages
        end = Receiver(open_receiver(address, secret), store, layout, "victim", limits(layout))
        side = Decode(end, store)
        print(json.dumps({"address": end.address}), flush=True)
    else:
        timeouts = Timeouts(retry_s=5.0)
        side = Prefill(Sender(open_sender(secret), Store(SLOTS, layout, SEED), layout, "victim", timeouts))
        print(json.dumps({"address": ""}), flush=True)
    while _turn(side, asked):
        pass


def _turn(side: Decode | Prefill, asked: SimpleQueue[dict[str, Any]]) -> bool:
    now = time.monotonic()
    busy = side.turn(now)
    try:
        question = asked.get_nowait()
    except Empty:
        if not busy:
            _wait(side.receiver if isinstance(side, Decode) else side.sender, now)
        return True
    match question:
        case {"start": [address, tokens, times]} if isinstance(side, Prefill):
            side.start(address, tokens, times)
            print("{}", flush=True)
        case {"stop": True}:
            return False
        case _:
            print(json.dumps(side.report()), flush=True)
    return True


def _wait(end: Receiver | Sender, now: float) -> None:
    poller = zmq.Poller()
    for socket in end.sockets():
        poller.register(socket, zmq.POLLIN)
    poller.poll(min(2, int(end.due_in(now) * 1000)))


def _read(asked: SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        asked.put(json.loads(line))
    asked.put({"stop": True})


# --- the parent's handle ------------------------------------------------------------------------------------


class Victim:
    """The process. ``grown`` is how much memory it has taken since it was ready, in MiB."""

    def __init__(
        self, role: str, address: str = "", secret: Path | None = None, layout: str = "small"
    ) -> None:
        argv = [sys.executable, __file__, role, str(secret or ""), address, layout]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.log: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.address: str = self._line()["address"]
        self._memory = psutil.Process(self.process.pid)
        self.before = self.peak = self._private()

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        self._listener.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        self.look()
        return self._line()

    def look(self) -> float:
        """MiB that it has grown by, now."""
        now = self._private()
        self.peak = max(self.peak, now)
        return (now - self.before) / 2**20

    def _private(self) -> int:
        """Bytes of its own: a sender's ring is mapped by both sides and belongs to the sender."""
        info = self._memory.memory_info()
        return int(info.rss - info.shared)

    @property
    def grown(self) -> float:
        return (self.peak - self.before) / 2**20

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError("the victim is gone:\n" + "".join(self.log[-20:]))
        found: dict[str, Any] = json.loads(line)
        return found

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
