"""Bugs put in on purpose, each a changed rule or a broken guard, and what the search must say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from handoff_model.frames import Frame
from handoff_model.receiving import ReceivingTurn
from handoff_model.search import Result, search
from handoff_model.sending import SendingTurn
from handoff_model.sides import Config, Tables
from handoff_model.world import World

from kv_transfer.protocol import Action, Event, ReceiverState, Rule, SenderState, State, Table

_E, _A, _S, _R = Event, Action, SenderState, ReceiverState


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    name: str
    found: str  # part of what the search says
    config: Config
    tables: Tables = field(default_factory=Tables)
    sending: type[SendingTurn] = SendingTurn
    receiving: type[ReceivingTurn] = ReceivingTurn
    liveness: bool = True

    def hunt(self) -> Result:
        world = World(self.config, self.tables, self.sending, self.receiving)
        return search(world, liveness=self.liveness)


def changed(table: Table[State], state: State, event: Event, rule: Rule[State]) -> Table[State]:
    return {**table, state: {**table[state], event: rule}}


def _sender(state: SenderState, event: Event, target: SenderState, *actions: Action) -> Tables:
    return replace(Tables(), sender=changed(Tables().sender, state, event, Rule(target, actions)))


def _receiver(state: ReceiverState, event: Event, target: ReceiverState, *actions: Action) -> Tables:
    return replace(Tables(), receiver=changed(Tables().receiver, state, event, Rule(target, actions)))


class AnyLife(SendingTurn):
    def owns(self, frame: Frame) -> bool:
        return not frame.stranger


class AddsCredit(SendingTurn):
    def allow(self, allowed: int) -> int:
        return min(self.x.allowed + allowed, self.config.parts + 1)


class ReadsAll(SendingTurn):
    def readable(self, part: int) -> bool:
        return True


class KeepsReading(SendingTurn):
    def unstage(self) -> None:
        pass


class AnyPeer(ReceivingTurn):
    def owns(self, frame: Frame) -> bool:
        return True


class WritesAgain(ReceivingTurn):
    def place(self, frame: Frame) -> str:
        return "empty"


class NoChecksum(ReceivingTurn):
    def whole(self, frame: Frame) -> bool:
        return True


class NoDigest(ReceivingTurn):
    def digest(self) -> tuple[str, ...]:
        return self.x.commit[2]


class NoCount(ReceivingTurn):
    def covered(self) -> bool:
        return True


_PLAIN = Config(name="plain")
_TWO_LIVES = Config(name="two lives", parts=1, receiver_lives=2)
_DAMAGE = Config(name="damage", damage=True)

BUGS: Sequence[Bug] = (
    Bug(
        name="pages are written in LANDED",
        found="a page is written after Landed",
        config=_PLAIN,
        tables=_receiver(_R.LANDED, _E.DATA, _R.LANDED, _A.WRITE, _A.SEND_CREDIT),
    ),
    Bug(
        name="the sender lets go when COMMIT is out",
        found="Done is told, but that receiver has not adopted",
        config=_PLAIN,
        tables=_sender(_S.FLUSHING, _E.FLUSHED, _S.DONE, _A.SEND_COMMIT, _A.TELL_DONE),
    ),
    Bug(
        name="Lost is told twice",
        found="lost is told after the end, which was lost",
        config=_PLAIN,
        tables=_sender(_S.STREAMING, _E.ABORT, _S.LOST, _A.TELL_LOST, _A.TELL_LOST),
    ),
    Bug(
        name="a deadline is not told to the node",
        found="at the deadline the receiver does not end",
        config=_PLAIN,
        tables=_receiver(_R.FILLING, _E.DEADLINE, _R.DROPPED, _A.SEND_ABORT),
    ),
    Bug(
        name="SEALING has no deadline",
        found="at the deadline the receiver does not end",
        config=_PLAIN,
        tables=_receiver(_R.SEALING, _E.DEADLINE, _R.SEALING),
    ),
    Bug(
        name="a lost peer drops nothing",
        found="without its peer the receiver does not end",
        config=_PLAIN,
        tables=_receiver(_R.FILLING, _E.PEER_LOST, _R.FILLING),
    ),
    Bug(
        name="a lost peer drops what has landed",
        found="what has landed is dropped with its peer",
        config=_PLAIN,
        tables=_receiver(_R.LANDED, _E.PEER_LOST, _R.DROPPED, _A.TELL_DROPPED),
    ),
    Bug(
        name="a repeated COMMIT is misuse",
        found="COMMIT is MISUSE",
        config=_PLAIN,
        tables=_receiver(_R.LANDED, _E.COMMIT, _R.LANDED, _A.MISUSE),
    ),
    Bug(
        name="a lost GRANT is not said again",
        found="when all that is said but DATA is lost",
        config=_PLAIN,
        tables=_receiver(_R.FILLING, _E.RESERVE, _R.FILLING),
    ),
    Bug(
        name="a lost ADOPTED is not said again",
        found="COMMIT is not answered in ADOPTED",
        config=_PLAIN,
        tables=_receiver(_R.ADOPTED, _E.COMMIT, _R.ADOPTED),
    ),
    Bug(
        name="DROPPED does not answer DATA",
        found="DATA is not answered in DROPPED",
        config=_PLAIN,
        tables=_receiver(_R.DROPPED, _E.DATA, _R.DROPPED),
    ),
    Bug(
        name="a refused sender does not answer GRANT",
        found="nothing is lost from here on, but the best outcome is OPEN",
        config=_TWO_LIVES,
        tables=_sender(_S.REFUSED, _E.GRANT, _S.REFUSED),
    ),
    Bug(
        name="the receiver's life is not looked at",
        found="Done is told, but that receiver has not adopted",
        config=_TWO_LIVES,
        sending=AnyLife,
        liveness=False,
    ),
    Bug(
        name="anybody may send DATA",
        found="a page is written by a stranger",
        config=_PLAIN,
        receiving=AnyPeer,
    ),
    Bug(
        name="a repeated frame is written again",
        found="a part is written twice",
        config=_PLAIN,
        receiving=WritesAgain,
    ),
    Bug(
        name="credit is added up",
        found="more is allowed at the sender than the receiver has granted",
        config=_PLAIN,
        sending=AddsCredit,
    ),
    Bug(
        name="retracted pages are read",
        found="source pages are read that are not published",
        config=Config(name="retracts", retracts=True),
        sending=ReadsAll,
    ),
    Bug(
        name="what is being read is not dropped at the end",
        found="source pages are read after the end",
        config=_PLAIN,
        sending=KeepsReading,
    ),
    Bug(
        name="checksums are not looked at",
        found="it lands with wrong bytes",
        config=_DAMAGE,
        receiving=NoChecksum,
        liveness=False,  # which fails sooner
    ),
    Bug(
        name="the digest is not looked at",
        found="it lands with wrong bytes",
        config=_DAMAGE,
        receiving=NoDigest,
        liveness=False,
    ),
    Bug(
        name="COMPLETE without all parts",
        found="it lands with parts missing",
        config=Config(name="two lives, two prefix hits", haves=(0, 1), receiver_lives=2),
        receiving=NoCount,
        liveness=False,
    ),
    Bug(
        name="tombstones go while frames are in the air",
        found="adopted twice",
        config=Config(name="forgets early", parts=1, forgets_early=True),
        liveness=False,
    ),
)
