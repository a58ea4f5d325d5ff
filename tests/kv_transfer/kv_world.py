"""A small world for the handoff's tests: two stores, a network in memory, a clock that is a number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kv_transfer import (
    Limits,
    PageSink,
    PageSource,
    Receiver,
    ReceiverEvent,
    Sender,
    SenderEvent,
    Timeouts,
    TransferId,
)
from kv_transfer.store import Slots
from kv_transfer.transports.loopback import Loopback
from kv_transfer.wire import Buffer
from pagewire.layout import KVLayout

LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=2, dtype="float16", model="tiny")
TOKEN = LAYOUT.token_bytes
LIMITS = Limits(max_open=3, frame_bytes=2 * TOKEN, credit_bytes=4 * TOKEN, inflight_bytes=8 * TOKEN)
TIMEOUTS = Timeouts(retry_s=1.0, stall_s=10.0, probe_s=0.2)


class Store(PageSource, PageSink):
    """Pages as one array [layers, 2, slots, bytes of a token's K in a layer]."""

    def __init__(self, slots: int, layout: KVLayout = LAYOUT, seed: int = 0) -> None:
        row = layout.token_bytes // layout.layers // 2
        self.kv = np.zeros((layout.layers, 2, slots, row), np.uint8)
        if seed:
            self.kv[:] = np.random.default_rng(seed).integers(0, 256, self.kv.shape, np.uint8)
        self.writes = 0
        self.check: Callable[[Slots], None] = lambda slots: None
        self.check_read: Callable[[Slots], None] = lambda slots: None

    def mark(self) -> Passed:
        return Passed()

    def begin(self, slots: Slots, layers: slice) -> StoreCopy:
        return StoreCopy(self, slots, layers)

    def write(self, slots: Slots, layers: slice, data: Buffer) -> None:
        self.check(slots)
        self.writes += 1
        view = self.kv[layers]
        view[:, :, slots] = np.frombuffer(data, np.uint8).reshape(view.shape[0], 2, len(slots), -1)

    def tokens(self, slots: Slots) -> bytes:
        return self.kv[:, :, slots].tobytes()


class Passed:
    def passed(self) -> bool:
        return True


class StoreCopy:
    """Reads when it is taken."""

    def __init__(self, store: Store, slots: Slots, layers: slice) -> None:
        self.store, self.slots, self.layers = store, slots, layers

    def ready(self) -> bool:
        return True

    def take(self, out: memoryview) -> None:
        self.store.check_read(self.slots)
        out[:] = self.store.kv[self.layers][:, :, self.slots].tobytes()

    def drop(self) -> None:
        pass


class World:
    """One sender, one receiver, no faults unless ``network`` makes them."""

    def __init__(
        self,
        network: Loopback | None = None,
        limits: Limits = LIMITS,
        layout: KVLayout = LAYOUT,
        groups: int = 1,
    ) -> None:
        self.network = network or Loopback()
        self.source, self.sink = Store(64, layout, seed=7), Store(64, layout)
        self.receiver_end = self.network.end("decode")
        self.sender_end = self.network.end("prefill")
        self.sender = Sender(self.sender_end, self.source, layout, "epoch-p", TIMEOUTS, groups=groups)
        self.receiver = Receiver(self.receiver_end, self.sink, layout, "epoch-d", limits, TIMEOUTS)
        self.now = 100.0
        self.sent: list[SenderEvent] = []
        self.received: list[ReceiverEvent] = []

    def reserve(self, tokens: int = 8, deadline_s: float = 60.0, payload: bytes = b"who") -> TransferId:
        return self.sender.reserve("decode", tokens, payload, deadline_s, self.now)

    def poll(self, rounds: int = 1) -> None:
        """Both sides look once, receiver first; what they say is kept in ``sent`` and ``received``."""
        for _ in range(rounds):
            self.received += self.receiver.poll(self.now)
            self.sent += self.sender.poll(self.now)

    def granted(self, tokens: int = 8, have: int = 0) -> TransferId:
        """A transfer whose sender has read Granted; its receiver's slots are 20, 21, ..."""
        transfer = self.reserve(tokens)
        self.poll()
        self.receiver.grant(transfer, have, self.target(tokens))
        self.poll()
        return transfer

    def landed(self, tokens: int = 8) -> TransferId:
        transfer = self.granted(tokens)
        self.sender.publish(transfer, np.arange(tokens), tokens)
        self.sender.commit(transfer, b"first", self.now)
        self.poll(tokens + 2)
        return transfer

    @staticmethod
    def target(tokens: int) -> Slots:
        return np.arange(20, 20 + tokens)
