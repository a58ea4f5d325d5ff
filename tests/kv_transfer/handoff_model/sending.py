"""The sending side of the model: ``sender.py``, ``outgoing.py`` and ``sender_actions.py`` for one transfer,
and the prefill node that calls them.

Only what the rules and the promises need: a part is one DATA frame; times are moves that may always happen.
The guards of the shell are methods, so that a test can break one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from handoff_model.frames import ALL_KV, Frame
from handoff_model.sides import Kind, Turn, Wrong

from kv_transfer.protocol import SENDER_OPEN, Action, Event, SenderState

_SENDING = (SenderState.STREAMING, SenderState.FLUSHING)
_STAGED = 2
_ENDS = {
    "done": SenderState.DONE,
    "refused": SenderState.REFUSED,
    "lost": SenderState.LOST,
    "aborted": SenderState.LOST,
}


class Sending(NamedTuple):
    """One transfer at the sender and at its node."""

    state: SenderState = SenderState.NONE
    open: bool = False
    dead: bool = False  # the process is gone
    cut: bool = False  # it has seen the connection break
    epoch: int | None = None  # the receiver's life, once it has granted
    cursor: int | None = None  # parts below are sent, staged or not needed, from GRANT on
    staged: int = 0  # parts below the cursor that are being read
    seq: int = 0  # frames sent, and their bytes
    allowed: int = 0
    taken: int = 0
    slots: int = 0  # parts that are published
    sealed: bool = False  # commit was called
    committed: bool = False  # COMMIT is out
    granted: bool = False  # the node knows
    end: str = ""  # how it ended for the node; until then its pages are held
    done: int | None = None  # the receiver's life that Done was told of
    forgotten: bool = False  # the tombstone is gone


class SendingTurn(Turn):
    open_states = SENDER_OPEN
    x: Sending

    # --- the shell's guards ---------------------------------------------------------------------------------

    def owns(self, frame: Frame) -> bool:
        return not frame.stranger and self.x.epoch in (None, frame.life)

    def fits(self, frame: Frame) -> bool:
        return bool(frame.numbers[2])

    def allow(self, allowed: int) -> int:
        return max(self.x.allowed, allowed)

    def readable(self, part: int) -> bool:
        return part < self.x.slots

    # --- frames, calls and time -----------------------------------------------------------------------------

    def arrive(self, frame: Frame) -> None:
        if not self.owns(frame):
            return
        before = self.x
        unfit = frame.kind is Event.GRANT and self.x.open and not self.fits(frame)
        self.fire(Event.UNFIT if unfit else frame.kind, frame)
        if before.state is SenderState.NONE:  # nothing is kept of what is not known
            self.x = before

    def reserve(self) -> None:
        self.set(state=SenderState.RESERVING, open=True)
        self.send(Event.RESERVE)

    def fire(self, event: Event, frame: Frame | None = None) -> None:
        was_open = self.x.open
        super().fire(event, frame)
        if was_open and not self.x.open:
            self.unstage()

    def publish(self, slots: int) -> None:
        self.fire(Event.DO_PUBLISH)
        self.set(slots=slots)

    def retract(self) -> None:
        self.fire(Event.DO_PUBLISH)
        self.unstage()
        self.set(slots=0)

    def commit(self) -> None:
        self.fire(Event.DO_COMMIT)
        self.set(sealed=True)

    def abort(self) -> None:
        self.fire(Event.DO_ABORT)
        self.ended("aborted")

    def peer_lost(self) -> None:
        self.fire(Event.PEER_LOST)
        self.set(cut=True)

    def stage(self) -> None:
        x = self.x
        self.check(x.cursor is not None, "DATA is to be sent before GRANT")
        more = self.readable(x.cursor) and x.cursor < self.config.parts and x.allowed > x.seq + x.staged
        if more and x.staged < _STAGED:
            self.set(cursor=x.cursor + 1, staged=x.staged + 1)

    def unstage(self) -> None:
        if self.x.staged:
            self.set(cursor=self.x.cursor - self.x.staged, staged=0)

    def pump(self) -> None:
        """Send what is staged. That the wire does not take it needs no move: it is the same a bit later."""
        x = self.x
        if x.staged:
            self.send(Event.DATA, (x.seq, x.cursor - x.staged), (ALL_KV, ALL_KV))
            self.set(staged=x.staged - 1, seq=x.seq + 1)
        elif x.cursor == self.config.parts and x.state is SenderState.FLUSHING:
            self.fire(Event.FLUSHED)

    def forget(self) -> None:
        self.set(state=SenderState.NONE, epoch=None, forgotten=True)

    # --- actions --------------------------------------------------------------------------------------------

    def send(self, kind: Event, numbers: tuple[int, ...] = (), words: tuple[str, ...] = ()) -> None:
        self.sent.append(Frame(kind, False, 0, numbers, words))

    def act(self, action: Action, event: Event, frame: Frame | None) -> None:
        if action.name.startswith("COUNT_"):
            return
        if action is Action.MISUSE:
            raise Wrong(f"{event.name} is MISUSE")
        if action is Action.SEND_ABORT:
            self.send(Event.ABORT)
            return
        self.check(self.x.open, f"{action.name} for a transfer that is not open")
        kind = frame.kind if frame else None
        match action, kind:
            case Action.SEND_RESERVE, _:
                self.send(Event.RESERVE)
            case Action.SEND_COMMIT, _:
                self.send(Event.COMMIT, (self.x.seq, self.x.seq), (ALL_KV,) * self.x.seq)
                self.set(committed=True)
            case Action.TAKE_CREDIT, Event.GRANT:
                self.set(allowed=self.allow(frame.numbers[1]))
            case Action.TAKE_CREDIT, Event.CREDIT:
                self.set(allowed=self.allow(frame.numbers[1]))
                self.set(taken=max(self.x.taken, min(frame.numbers[0], self.x.seq)))
            case Action.TELL_GRANTED, Event.GRANT:
                self.check(not self.x.granted, "Granted is told twice")
                self.told("Granted")
                self.set(granted=True, epoch=frame.life, cursor=frame.numbers[0])
            case Action.TELL_REFUSED, Event.REFUSE:
                self.check(not self.x.granted, "Refused is told after Granted")
                self.ended("refused")
            case Action.TELL_DONE, _:
                self.check(self.x.sealed, "Done is told before commit")
                self.ended("done")
                self.set(done=self.x.epoch)
            case Action.TELL_LOST, _:
                self.ended("lost")
            case _:
                raise Wrong(f"{action.name} on {event.name} is not a sender's")

    # --- everything that may happen by itself ---------------------------------------------------------------

    def moves(self) -> list[tuple[Kind, str, Callable[[SendingTurn], None]]]:
        """Without frames: what the node may call, and what time may bring."""
        x, config = self.x, self.config
        if x.dead:
            return []
        found: list[tuple[Kind, str, Callable[[SendingTurn], None]]] = []
        if config.sender_may_die:
            found.append((Kind.CRASH, "the sender dies", lambda t: t.set(dead=True)))
        if x == Sending():
            return [*found, (Kind.COOPERATE, "reserve", SendingTurn.reserve)]
        if x.granted and not x.end and not x.sealed:
            for n in range(x.slots + 1, config.parts + 1):
                found.append((Kind.COOPERATE, f"publish {n}", lambda t, n=n: t.publish(n)))
            if x.slots == config.parts:
                found.append((Kind.COOPERATE, "commit", SendingTurn.commit))
            if x.slots and config.retracts:
                found.append((Kind.HINDER, "retract", SendingTurn.retract))
        if not x.end:
            found.append((Kind.HINDER, "abort", SendingTurn.abort))
        if x.open:
            found.append((Kind.RETRY, "RETRY", lambda t: t.fire(Event.RETRY)))
            found.append((Kind.DEADLINE, "DEADLINE", lambda t: t.fire(Event.DEADLINE)))
            found.append((Kind.PEER_LOST, "PEER_LOST", SendingTurn.peer_lost))
            if x.state in _SENDING:
                found.append((Kind.PUMP, "reads a part", SendingTurn.stage))
                found.append((Kind.PUMP, "poll", SendingTurn.pump))
        elif x.state is not SenderState.NONE and (config.forgets or config.forgets_early):
            found.append((Kind.FORGET, "forget", SendingTurn.forget))
        return found


def wrong(x: Sending) -> str:
    """What is wrong with the sender by itself; empty if nothing is."""
    if x.staged and x.end:
        return f"source pages are read after the end, which was {x.end}"
    if x.staged and x.cursor > x.slots:
        return "source pages are read that are not published"
    if x.seq + x.staged > x.allowed:
        return "more is sent than was allowed"
    if x.committed and x.state is SenderState.FLUSHING:
        return "it is FLUSHING, and COMMIT is out"
    if x.state is SenderState.NONE and x not in (Sending(), Sending(dead=True)) and not x.forgotten:
        return "a transfer is forgotten at once"
    if x.end and not x.forgotten and x.state is not _ENDS[x.end]:
        return f"it is {x.state.name}, but the end was {x.end}"
    return ""
