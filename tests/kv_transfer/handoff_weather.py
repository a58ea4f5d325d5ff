"""The network of the handoff's state machine: frames hang in the air until a rule decides about them.

Knows frames as bytes; knows no transfer.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from kv_transfer.transports.base import Arrived, Peer
from kv_transfer.transports.loopback import Loopback

PICK = st.integers(0, 1 << 16)


class Weather(Loopback):
    def __init__(self) -> None:
        super().__init__()
        self.air: list[tuple[Peer, Arrived]] = []
        self.leaves: Callable[[Peer, Arrived], None] = lambda target, frame: None

    def carry(self, target: Peer, frame: Arrived) -> None:
        self.leaves(target, frame)
        self.air.append((target, frame))


class StormyMachine(RuleBasedStateMachine):
    """Delivers, loses, repeats, reorders, delays and damages frames."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Weather()

    def _take(self, pick: int) -> tuple[Peer, Arrived]:
        return self.network.air.pop(pick % len(self.network.air))

    @precondition(lambda self: self.network.air)
    @rule(pick=PICK)
    def deliver(self, pick: int) -> None:
        self.network.deliver(*self._take(pick))

    @rule()
    def deliver_all_in_order(self) -> None:
        for target, frame in self.network.air:
            self.network.deliver(target, frame)
        self.network.air.clear()

    @precondition(lambda self: self.network.air)
    @rule(pick=PICK)
    def lose(self, pick: int) -> None:
        self._take(pick)

    @precondition(lambda self: self.network.air)
    @rule(pick=PICK)
    def repeat(self, pick: int) -> None:
        self.network.air.append(self.network.air[pick % len(self.network.air)])

    @precondition(lambda self: self.network.air)
    @rule(pick=PICK, bit=PICK)
    def damage(self, pick: int, bit: int) -> None:
        target, frame = self._take(pick)
        whole = bytearray(frame.head + bytes(frame.body))
        whole[bit // 8 % len(whole)] ^= 1 << bit % 8
        cut = len(frame.head)
        self.network.air.append((target, Arrived(frame.peer, bytes(whole[:cut]), bytes(whole[cut:]))))
