"""The real ``Sender`` with its prefill node, for the search. Pages are checked when they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
from handoff_model.halves import (
    DECODE,
    FIRST,
    LONG,
    NOW,
    PREFILL,
    Half,
    Line,
    Moves,
    RealFrame,
    check,
    real_frame,
)
from handoff_model.sides import Config, Kind
from kv_world import LAYOUT, TIMEOUTS, TOKEN, Store

from kv_transfer import Done, Granted, Lost, Refused, Sender, wire
from kv_transfer.protocol import SenderState
from kv_transfer.store import Slots


class SenderHalf(Half):
    unknown = SenderState.NONE

    def __init__(self, config: Config) -> None:
        self.line = Line(PREFILL, DECODE)
        self.pages = Store(config.parts, seed=5)
        self.pages.check_read = self._reads
        still: dict[str, Any] = {"stopwatch": float}
        self.side = Sender(self.line, self.pages, LAYOUT, "p", TIMEOUTS, **still)
        super().__init__(config, self.side.reserve("decode", config.parts, b"who", LONG, NOW))
        self.granted = self.sealed = False
        self.computed = 0

    def poll(self) -> None:
        for event in self.side.poll(NOW):
            match event:
                case Granted():
                    check(not self.granted, "Granted is told twice")
                    self.granted = True
                case Done():
                    self.ended("done")
                case Lost() | Refused():
                    self.ended("lost")

    def _reads(self, slots: Slots) -> None:
        check(not self.end, f"source pages are read after the end, which was {self.end}")
        check(max(slots) < self.computed, "source pages are read that are not published")

    def publish(self, computed: int) -> None:
        self.computed = computed
        self.side.publish(self.transfer, np.arange(self.config.parts), computed)

    def commit(self) -> None:
        self.sealed = True
        self.side.commit(self.transfer, FIRST, NOW)

    def retract(self) -> None:
        self.computed = 0
        self.side.retract(self.transfer)

    def moves(self) -> Moves:
        if self.dead:
            return
        if self.config.sender_may_die:
            yield Kind.CRASH, "the sender dies", lambda h: setattr(h, "dead", True)
        if self.granted and not self.end and not self.sealed:
            if self.computed < self.config.parts:
                yield Kind.COOPERATE, "publish", lambda h: h.publish(h.computed + 1)
            else:
                yield Kind.COOPERATE, "commit", lambda h: h.commit()
            if self.computed and self.config.retracts:
                yield Kind.HINDER, "retract", lambda h: h.retract()
        if not self.end:
            yield Kind.HINDER, "abort", lambda h: h.abort()
        if self.open:
            yield Kind.PUMP, "poll", lambda h: h.poll()
        yield from self.time()

    def strangers(self) -> list[RealFrame]:
        many = self.config.parts * TOKEN
        forged = (
            wire.Grant(self.transfer, "d0", 0, many, TOKEN),
            wire.Adopted(self.transfer, "d0", 0),
            wire.Abort(self.transfer, "d0", "no", "no"),
        )
        return [real_frame(message, True, stranger=True) for message in forged]

    def key(self) -> tuple[Any, ...]:
        common = super().key()
        t = self._t
        self.allowed, self.seq, taken = (t.allowed, t.sent, t.taken) if t else (0, 0, 0)
        sent = (*t.checksums, *t.published, *t.ready, len(t.coming), len(t.staged)) if t else ()
        return (*common, self.allowed, sent, taken, self.granted, self.sealed, self.computed)

    @property
    def waits_for_credit(self) -> bool:
        t = self._t
        return t is not None and t.cursor is not None and not t.cursor.done and t.sent == t.allowed
