"""The receiving side of the model: ``receiver.py``, ``incoming.py`` and ``receiver_actions.py`` for one
transfer, and the decode node that calls them.

Only what the rules and the promises need. A receiver may die and come back as its next life, which knows
nothing. The guards of the shell are methods, so that a test can break one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from handoff_model.frames import ALL_KV, Frame
from handoff_model.sides import Kind, Turn, Wrong

from kv_transfer.protocol import RECEIVER_OPEN, WRITABLE, Action, Event, ReceiverState

_ENDS = {
    "adopted": ReceiverState.ADOPTED,
    "refused": ReceiverState.REFUSED,
    "dropped": ReceiverState.DROPPED,
    "aborted": ReceiverState.DROPPED,
}


class Receiving(NamedTuple):
    """One transfer at the receiver and at its node, in one of the receiver's lives."""

    state: ReceiverState = ReceiverState.NONE
    open: bool = False
    life: int = 0
    cut: bool = False
    have: int | None = None  # from grant on: parts below are never written
    usable: bool = True  # frame_bytes of its GRANT
    allowed: int = 0
    taken: int = 0
    got: tuple[tuple[int, int, str, str], ...] = ()  # seq, part, checksum, what is in the pages
    commit: tuple[int, int, tuple[str, ...]] | None = None
    reserved: bool = False  # the node knows
    landed: bool = False  # the node knows
    end: str = ""  # how it ended for the node; until then the granted pages are the transfer's
    adopted: tuple[int, ...] = ()  # lives in which it was adopted


class ReceivingTurn(Turn):
    open_states = RECEIVER_OPEN
    x: Receiving

    # --- the shell's guards ---------------------------------------------------------------------------------

    def owns(self, frame: Frame) -> bool:
        return not frame.stranger

    def place(self, frame: Frame) -> str:
        seq, part = frame.numbers
        if part < self.x.have or self.x.allowed == self.x.taken:
            return "nowhere"
        taken = any(seq == s or part == p for s, p, _, _ in self.x.got)
        return "taken" if taken else "empty"

    def whole(self, frame: Frame) -> bool:
        checksum, body = frame.words
        return checksum == body

    def covered(self) -> bool:
        return len(self.x.got) == self.config.parts - self.x.have

    def waits(self) -> bool:
        frames, _, _ = self.x.commit
        return not self.covered() and len(self.x.got) < frames

    def agrees(self) -> bool:
        frames, count, digest = self.x.commit
        numbered = [seq for seq, _, _, _ in self.x.got] == list(range(frames))
        return self.covered() and numbered and count == self.x.taken and digest == self.digest()

    def digest(self) -> tuple[str, ...]:
        return tuple(checksum for _, _, checksum, _ in self.x.got)

    # --- frames, calls and time -----------------------------------------------------------------------------

    def arrive(self, frame: Frame, fit: bool = True) -> None:
        if not self.owns(frame):
            return
        before = self.x
        match frame.kind:
            case Event.RESERVE if before.state is ReceiverState.NONE:
                self.set(open=True)
                self.fire(Event.RESERVE if fit else Event.UNFIT, frame)
                self.check(self.x.state is not ReceiverState.NONE, "what is refused is forgotten at once")
                return
            case Event.DATA:
                self.data(frame)
            case Event.COMMIT:
                self.fire(Event.COMMIT, frame)
                self.settle()
            case _:
                self.fire(frame.kind, frame)
        if before.state is ReceiverState.NONE:  # nothing is kept of what is not known
            self.x = before

    def data(self, frame: Frame) -> None:
        if self.x.state not in WRITABLE:
            self.fire(Event.DATA, frame)
            return
        self.check(self.x.have is not None and self.x.open, "a writable state without pages")
        if self.place(frame) != "empty":
            return
        if self.whole(frame):
            self.fire(Event.DATA, frame)
            credited = any(sent.kind is Event.CREDIT for sent in self.sent)
            self.check(credited, "a part is taken, and no CREDIT is given")
            self.settle()
        else:
            self.fire(Event.CORRUPT, frame)
            self.check(not self.x.open, "a corrupt frame does not end it")

    def settle(self) -> None:
        if self.x.state is not ReceiverState.SEALING:
            return
        self.check(self.x.have is not None and self.x.commit is not None, "SEALING without pages or COMMIT")
        if not self.waits():
            self.fire(Event.COMPLETE if self.agrees() else Event.MISMATCH)

    def grant(self, have: int, usable: bool) -> None:
        self.check(self.x.have is None, "granted twice")
        self.set(have=have, usable=usable, allowed=min(self.config.parts - have, 1))
        self.fire(Event.DO_GRANT)

    def refuse(self) -> None:
        self.fire(Event.DO_REFUSE)
        self.ended("refused")

    def adopt(self) -> None:
        self.fire(Event.DO_ADOPT)
        self.check_content()
        self.check(self.x.life not in self.x.adopted, "adopted twice")
        self.ended("adopted")
        self.set(adopted=(*self.x.adopted, self.x.life))

    def abort(self) -> None:
        self.fire(Event.DO_ABORT)
        self.ended("aborted")

    def peer_lost(self) -> None:
        self.fire(Event.PEER_LOST)
        self.set(cut=True)

    def restart(self) -> None:
        self.x = Receiving(life=self.x.life + 1, adopted=self.x.adopted)

    def forget(self) -> None:
        """Should it be asked again, that is another transfer to its node."""
        self.x = Receiving(life=self.x.life, adopted=self.x.adopted, cut=self.x.cut)

    # --- actions --------------------------------------------------------------------------------------------

    def send(self, kind: Event, numbers: tuple[int, ...] = ()) -> None:
        self.sent.append(Frame(kind, True, self.x.life, numbers))

    def act(self, action: Action, event: Event, frame: Frame | None) -> None:
        if action.name.startswith("COUNT_"):
            return
        if action is Action.MISUSE:
            raise Wrong(f"{event.name} is MISUSE")
        if action in (Action.SEND_ABORT, Action.SEND_REFUSE, Action.SEND_ADOPTED):
            self.send(Event[action.name.removeprefix("SEND_")])
            return
        self.check(self.x.open, f"{action.name} for a transfer that is not open")
        match action, frame.kind if frame else None:
            case Action.SEND_GRANT, _:
                self.check(self.x.have is not None, "GRANT without pages")
                self.send(Event.GRANT, (self.x.have, self.x.allowed, int(self.x.usable)))
            case Action.SEND_CREDIT, _:
                self.check(self.x.have is not None, "CREDIT without pages")
                self.send(Event.CREDIT, (self.x.taken, self.x.allowed))
            case Action.WRITE, Event.DATA:
                self.write(frame)
            case Action.KEEP_COMMIT, Event.COMMIT:
                self.check(not frame.stranger, "a stranger's COMMIT is kept")
                self.set(commit=(*frame.numbers, frame.words))
            case Action.TELL_RESERVED, _:
                self.check(not self.x.reserved, "Reserved is told twice")
                self.told("Reserved")
                self.set(reserved=True)
            case Action.TELL_LANDED, _:
                self.check(not self.x.landed, "Landed is told twice")
                self.told("Landed")
                self.check_content()
                self.set(landed=True)
            case Action.TELL_DROPPED, _:
                self.ended("dropped")
            case _:
                raise Wrong(f"{action.name} on {event.name} is not a receiver's")

    def write(self, frame: Frame) -> None:
        x, (seq, part) = self.x, frame.numbers
        self.check(x.have is not None, "a page is written that was not granted")
        self.check(not x.end, f"a page is written after the end, which was {x.end}")
        self.check(not x.landed, "a page is written after Landed")
        self.check(not frame.stranger, "a page is written by a stranger")
        self.check(part >= x.have, "a page of the prefix hit is written")
        self.check(x.taken < x.allowed, "a frame beyond its credit is written")
        self.check(all(part != p for _, p, _, _ in x.got), "a part is written twice")
        self.set(got=tuple(sorted([*x.got, (seq, part, *frame.words)])))
        need = self.config.parts - x.have
        allowed = max(x.allowed, min(need, x.taken + 1 + self.config.credit))
        self.set(taken=x.taken + 1, allowed=allowed)

    def check_content(self) -> None:
        x = self.x
        self.check(x.have is not None, "it lands without pages")
        parts = {part for _, part, _, _ in x.got}
        self.check(parts == set(range(x.have, self.config.parts)), "it lands with parts missing")
        self.check(all(body == ALL_KV for _, _, _, body in x.got), "it lands with wrong bytes")
        self.check(x.commit is not None, "it lands without COMMIT")
        self.check(x.commit[2] == self.digest(), "it lands with a digest that does not agree")

    # --- everything that may happen by itself ---------------------------------------------------------------

    def moves(self) -> list[tuple[Kind, str, Callable[[ReceivingTurn], None]]]:
        """Without frames: what the node may call, and what time may bring."""
        x, config = self.x, self.config
        found: list[tuple[Kind, str, Callable[[ReceivingTurn], None]]] = []
        if x.life + 1 < config.receiver_lives:
            found.append((Kind.CRASH, "the receiver dies and comes back", ReceivingTurn.restart))
        if x.reserved and not x.end:
            if x.have is None:
                for have in config.haves:
                    found.append((Kind.COOPERATE, f"grant {have}", lambda t, h=have: t.grant(h, True)))
                if config.unfit:
                    found.append((Kind.HINDER, "grant of no use", lambda t: t.grant(0, False)))
                found.append((Kind.HINDER, "refuse", ReceivingTurn.refuse))
            if x.landed:
                found.append((Kind.COOPERATE, "adopt", ReceivingTurn.adopt))
            found.append((Kind.HINDER, "abort", ReceivingTurn.abort))
        if x.open:
            found.append((Kind.RETRY, "RETRY", lambda t: t.fire(Event.RETRY)))
            found.append((Kind.DEADLINE, "DEADLINE", lambda t: t.fire(Event.DEADLINE)))
            found.append((Kind.PEER_LOST, "PEER_LOST", ReceivingTurn.peer_lost))
        elif x.state is not ReceiverState.NONE and (config.forgets or config.forgets_early):
            found.append((Kind.FORGET, "forget", ReceivingTurn.forget))
        return found


def wrong(x: Receiving) -> str:
    """What is wrong with the receiver by itself; empty if nothing is."""
    if x.end and x.state is not _ENDS[x.end]:
        return f"it is {x.state.name}, but the end was {x.end}"
    if x.taken > x.allowed:
        return "more is taken than was granted"
    if x.open and x.landed != (x.state is ReceiverState.LANDED):
        return f"it is {x.state.name}, and its node {'knows' if x.landed else 'does not know'} of Landed"
    if x.state is ReceiverState.FILLING and x.commit is not None:
        return "it is FILLING, and COMMIT has come"
    if x.state in (ReceiverState.ADOPTED, ReceiverState.DROPPED) and not x.reserved:
        return f"it is {x.state.name}, and its node was never asked"
    if not x.open and x.state not in (ReceiverState.NONE, ReceiverState.REFUSED, *_ENDS.values()):
        return "a transfer is forgotten that is open"
    return ""
