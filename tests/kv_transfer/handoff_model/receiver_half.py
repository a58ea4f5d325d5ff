"""The real ``Receiver`` with its decode node, for the search. Pages are checked when they are written
and when they have landed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from handoff_model.halves import DECODE, FIRST, NOW, PREFILL, Half, Line, Moves, RealFrame, check, real_frame
from handoff_model.sides import Config, Kind
from kv_world import LAYOUT, TIMEOUTS, TOKEN, Store

from kv_transfer import Dropped, Landed, Limits, Receiver, Reserved, wire
from kv_transfer.protocol import WRITABLE, ReceiverState
from kv_transfer.store import Slots
from kv_transfer.wire import TransferId


class ReceiverHalf(Half):
    unknown = ReceiverState.NONE

    def __init__(self, config: Config, transfer: TransferId, kv: bytes, life: int = 0) -> None:
        super().__init__(config, transfer)
        self.line = Line(DECODE, PREFILL)
        self.kv, self.life = kv, life
        self.pages = Store(config.parts)
        self.pages.check = self._writes
        limits = Limits(
            max_open=2, frame_bytes=TOKEN, credit_bytes=config.credit * TOKEN, inflight_bytes=8 * TOKEN
        )
        still: dict[str, Any] = {"stopwatch": float}
        self.side = Receiver(self.line, self.pages, LAYOUT, f"d{life}", limits, TIMEOUTS, **still)
        self.asked = self.lent = self.landed = False
        self.adopted: tuple[str, ...] = ()

    usable = True

    @property
    def reserved(self) -> bool:
        return self.asked

    def poll(self) -> None:
        self.side._probe_at = NOW
        for event in self.side.poll(NOW):
            match event:
                case Reserved(num_tokens=tokens, payload=payload):
                    check(not self.asked, "Reserved is told twice")
                    check(
                        (tokens, payload) == (self.config.parts, b"who"), "Reserved tells of another request"
                    )
                    self.asked = True
                case Landed(payload=payload):
                    check(not self.landed, "Landed is told twice")
                    check(payload == FIRST, "Landed tells of other tokens")
                    self.check_content()
                    self.landed = True
                case Dropped():
                    self.ended("dropped")
                    self.lent = False

    def _writes(self, slots: Slots) -> None:
        check(self.lent and not self.landed, "a page is written that is not lent")
        state = self._t.state
        check(state in WRITABLE, f"a page is written in {state.name}")

    def check_content(self) -> None:
        check(self.pages.kv.tobytes() == self.kv, "what has landed is not what was computed")

    def grant(self) -> None:
        self.lent = self.side.grant(self.transfer, 0, np.arange(self.config.parts))

    def refuse(self) -> None:
        self.side.refuse(self.transfer, "no", "no", retryable=True)
        self.ended("refused")

    def adopt(self) -> None:
        if self.side.adopt(self.transfer):
            self.check_content()
            self.ended("adopted")
            self.lent = False
            self.adopted += (f"d{self.life}",)

    def abort(self) -> None:
        super().abort()
        self.lent = False

    def restart(self) -> None:
        adopted = self.adopted
        self.__init__(self.config, self.transfer, self.kv, self.life + 1)  # type: ignore[misc]
        self.adopted = adopted

    def forget(self) -> None:
        """Should it be asked again, that is another transfer to its node."""
        super().forget()
        self.asked = self.landed = False
        self.end = ""

    def moves(self) -> Moves:
        if self.life + 1 < self.config.receiver_lives:
            yield Kind.CRASH, "the receiver dies and comes back", lambda h: h.restart()
        if self.asked and not self.end:
            if not self.lent:
                yield Kind.COOPERATE, "grant", lambda h: h.grant()
                yield Kind.HINDER, "refuse", lambda h: h.refuse()
            if self.landed:
                yield Kind.COOPERATE, "adopt", lambda h: h.adopt()
            yield Kind.HINDER, "abort", lambda h: h.abort()
        yield from self.time()

    def strangers(self) -> list[RealFrame]:
        body = bytes(TOKEN)
        check = wire.checksum(body)
        data = wire.Data(self.transfer, "p", 0, 0, 1, 0, LAYOUT.layers, check)
        forged = [real_frame(data, False, body, True)]
        return [*forged, real_frame(wire.Abort(self.transfer, "p", "no", "no"), False, stranger=True)]

    def key(self) -> tuple[Any, ...]:
        common = super().key()
        t = self._t
        landing = t.landing if t else None
        window = (landing.window.allowed, landing.window.taken) if landing else None
        self.allowed = window[0] if window else None
        got = (landing.coverage.missing, *sorted(landing.checksums.items())) if landing else ()
        commit = t.commit if t else None
        nodes = (self.asked, self.lent, self.landed, self.adopted, self.life)
        return (*common, window, got, commit, *nodes, self.side.credit_bytes, self.pages.kv.tobytes())
