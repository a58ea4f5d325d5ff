"""The search of the model, with the real shells in the places of its sides.

Knows how a half is copied for a step, and which promises hold for it; ``halves`` knows the halves.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from handoff_model.frames import Air
from handoff_model.halves import Half, RealFrame
from handoff_model.promises import Promises
from handoff_model.receiver_half import ReceiverHalf
from handoff_model.search import Result, search
from handoff_model.sender_half import SenderHalf
from handoff_model.sides import Config, Wrong
from handoff_model.world import Side, World
from kv_world import LAYOUT, TIMEOUTS

from kv_transfer.protocol import ReceiverState, SenderState
from pagewire.errors import LocalProtocolError


class Snapshot:
    """A half that nobody changes any more, equal to others by what it holds."""

    def __init__(self, half: Half) -> None:
        self.key = half.key()
        self.half = half

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.half, name)


class ShellTurn:
    """One step of a half, on a copy of it."""

    def __init__(self, local: Snapshot) -> None:
        self._local = local
        self._half: Half | None = None
        self.config = local.half.config
        self.fired: list[Any] = []

    def moves(self) -> list[Any]:
        return [(kind, label, self._runs(act)) for kind, label, act in self._local.half.moves()]

    @staticmethod
    def _runs(act: Any) -> Any:
        return lambda turn: turn.run(act)

    def arrive(self, frame: RealFrame) -> None:
        self.run(lambda half: half.arrive(frame))

    def run(self, act: Any) -> None:
        """No legal call and no frame leads to a failed assertion or to misuse."""
        try:
            act(self.half)
        except (AssertionError, LocalProtocolError) as error:
            raise Wrong(f"{type(error).__name__}: {error}") from error

    @property
    def half(self) -> Half:
        if self._half is None:
            shared = (LAYOUT, TIMEOUTS, self.config, self._local.half.side.counts)
            self._half = copy.deepcopy(self._local.half, {id(x): x for x in shared})
        return self._half

    @property
    def x(self) -> Snapshot:
        return Snapshot(self._half) if self._half is not None else self._local

    @property
    def sent(self) -> list[RealFrame]:
        if self._half is None:
            return []
        out, self._half.line.out = self._half.line.out, []
        return out


class ShellWorld(World):
    def __init__(self, config: Config) -> None:
        left = SenderHalf(config)
        right = ReceiverHalf(config, left.transfer, left.pages.kv.tobytes())
        self.config, self.air = config, Air()
        first, left.line.out = tuple(left.line.out), []
        outside = left.strangers(), right.strangers()
        self.sender = Side(self.air, ShellTurn, Snapshot(left), outside[0], by_sender=True)
        self.receiver = Side(self.air, ShellTurn, Snapshot(right), outside[1], by_sender=False)
        self.start = self.with_air(0, self.air.mask(first))
        self._between, self._damaged = {}, 0

    def wrong(self, s: Any, r: Any) -> str:
        if s.end == "done" and s.epoch not in (*r.adopted, ""):
            return "Done is told, but that receiver has not adopted"
        if s.seq > s.allowed:
            return "more is sent than was allowed"
        if s.open and r.allowed is not None and s.epoch == f"d{r.life}" and s.allowed > r.allowed:
            return "more is allowed at the sender than the receiver has granted"
        if not r.open and (r.lent or r.side.credit_bytes):
            return "pages or credit are held, but nothing is open"
        ended = (s.end == "done") == (s.state is SenderState.DONE) or s.state is SenderState.NONE
        ended &= (r.end == "adopted") == (r.state is ReceiverState.ADOPTED) or r.state is ReceiverState.NONE
        return "" if ended else "a node was told of another end than its tombstone says"

    def damaged(self, frame: Any) -> list[Any]:
        return frame.damaged()


class ShellPromises(Promises):
    """The deadline alone ends what is open and tells the node; the rest is as in the model."""

    def _sender_alone(self, n: int) -> str:
        return self._ends_at_deadline(self._world.sender, n)

    def _receiver_alone(self, n: int) -> str:
        return self._ends_at_deadline(self._world.receiver, n)

    def _ends_at_deadline(self, side: Side, n: int) -> str:
        local = side.locals[n]
        if not local.open:
            return ""
        late = side.after(n, "DEADLINE", lambda t: t.run(lambda half: half.over("deadline")))
        held = not side.by_sender and (late.next.lent or late.next.side.credit_bytes)
        if late.wrong or late.next.open or not late.next.end or held:
            return f"at the deadline it does not end: {late.wrong or late.next.state.name}"
        return ""

    def _waits_in_silence(self, state: int) -> bool:
        s, r = self._world.sides(state)
        return (s.end != "" and s.epoch not in ("", f"d{r.life}")) or (s.waits_for_credit and not r.open)


SHELLS: Sequence[Config] = (
    Config(name="shells: 1 part, retracts, sender dies", parts=1, retracts=True, sender_may_die=True),
)
LARGE_SHELLS: Sequence[Config] = (
    Config(name="shells: 2 parts, damage, retracts", retracts=True, damage=True),
    Config(name="shells: 1 part, receiver dies and comes back", parts=1, receiver_lives=2),
    Config(name="shells: 1 part, tombstones forgotten", parts=1, forgets=True),
)


def search_shells(config: Config, *, liveness: bool = True) -> Result:
    return search(ShellWorld(config), promises=ShellPromises, liveness=liveness)
