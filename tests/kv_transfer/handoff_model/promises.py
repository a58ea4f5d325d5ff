"""What must be possible from every state: clean-up without a page and without the peer, and an end for both
sides once the network and the nodes do their best.

Each promise is asked of every reachable state. "An end is possible" means that one fixed schedule of
deliveries, polls and friendly calls reaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from handoff_model.frames import BAD, Frame
from handoff_model.receiving import Receiving, ReceivingTurn
from handoff_model.sending import Sending, SendingTurn
from handoff_model.sides import Kind
from handoff_model.world import Move, Side, World

from kv_transfer.protocol import Event


class Outcome(IntEnum):
    OPEN = 0  # one side still waits when nothing more can happen
    ENDED = 1  # at both sides
    SUCCESS = 2  # adopted at the receiver, Done at the sender


class Promises:
    def __init__(self, world: World) -> None:
        self._world = world
        self._alone: dict[tuple[bool, int], str] = {}
        self.stuck: list[tuple[int, Move]] = []  # what the schedule came to, where it broke a promise
        self._reached: tuple[dict[int, Outcome], dict[int, Outcome]] = ({}, {})

    def broken(self, state: int) -> str:
        """The first promise that does not hold in ``state``; empty if all do."""
        return self._alone_broken(state) or self._together_broken(state)

    # --- without the peer -----------------------------------------------------------------------------------

    def _alone_broken(self, state: int) -> str:
        for side, n in zip(
            (self._world.sender, self._world.receiver), self._world.numbers(state), strict=True
        ):
            if (wrong := self._alone.get((side.by_sender, n))) is None:
                what = self._sender_alone if side.by_sender else self._receiver_alone
                wrong = self._alone[side.by_sender, n] = what(n)
            if wrong:
                return wrong
        return ""

    def _sender_alone(self, n: int) -> str:
        side = self._world.sender
        local: Sending = side.locals[n]
        if local.dead or local == Sending():
            return ""
        if not local.open and not local.end:
            return "it has ended at the sender, but its node was not told: pages leak"
        if not local.open:
            life = local.epoch or 0
            going_on = (Frame(Event.GRANT, True, life, (0, 1, 1)), Frame(Event.CREDIT, True, life, (0, 1)))
            return "" if local.end == "done" else self._answers(side, n, *going_on)
        if local.epoch is not None:
            most = self._world.config.parts
            credit = Frame(Event.CREDIT, True, local.epoch, (0, most))
            if side.after(n, "CREDIT", lambda t: t.arrive(credit)).next.allowed < most:
                return f"CREDIT does not count in {local.state.name}"
        abort = Frame(Event.ABORT, True, local.epoch or 0)
        return self._ends_alone(side, n, SendingTurn.peer_lost, abort)

    def _receiver_alone(self, n: int) -> str:
        side = self._world.receiver
        local: Receiving = side.locals[n]
        if not local.open:
            if local.reserved and not local.end:
                return "it has ended at the receiver, but its node was not told: pages leak"
            going_on = (Frame(Event.COMMIT, False, 0, (0, 0)), Frame(Event.DATA, False, 0, (0, 0)))
            return self._answers(side, n, *going_on[: 1 if local.end == "adopted" else 2])
        lost = _adopt_alone if local.landed else ReceivingTurn.peer_lost
        return self._ends_alone(side, n, lost, Frame(Event.ABORT, False))

    def _answers(self, side: Side, n: int, *frames: Frame) -> str:
        """What shows that the other side goes on is answered, so that it can stop."""
        for frame in frames:
            if not side.after(n, "goes on", lambda t, frame=frame: t.arrive(frame)).sent:
                return f"{frame.kind.name} is not answered in {side.locals[n].state.name}"
        return ""

    def _ends_alone(self, side: Side, n: int, peer_lost: Callable[[Any], None], abort: Frame) -> str:
        """Nothing but one event, and no frame and no call, ends what is open."""
        for what, act in (
            ("at the deadline", lambda t: t.fire(Event.DEADLINE)),
            ("on ABORT", lambda t: t.arrive(abort)),
            ("without its peer", peer_lost),
        ):
            after = side.after(n, what, act)
            if after.wrong or after.next.open or not after.next.end:
                who = "sender" if side.by_sender else "receiver"
                return f"{what} the {who} does not end: {after.wrong or after.next.state.name}"
        return ""

    # --- with a network and nodes that do their best --------------------------------------------------------

    def _together_broken(self, state: int) -> str:
        want = Outcome.SUCCESS if self._unspoilt(state) else Outcome.ENDED
        lossless = self._outcome(state, again=False)
        if lossless < want:
            self.stuck = self._schedule(state, again=False)
            return f"nothing is lost from here on, but the best outcome is {lossless.name}, not {want.name}"
        world = self._world
        start = world.with_air(state, world.in_air(state) & world.air.data)
        again = self._outcome(start, again=True)
        if again < want and not (want is Outcome.ENDED and self._waits_in_silence(state)):
            self.stuck = self._schedule(start, again=True)
            return (
                f"when all that is said but DATA is lost, the best outcome is {again.name}, not {want.name}"
            )
        return ""

    def _unspoilt(self, state: int) -> bool:
        """True if nothing has happened that may keep the transfer from succeeding."""
        s, r = self._world.sides(state)
        bad = (Event.ABORT, Event.REFUSE)
        spoilt = any(
            f.kind in bad or BAD in f.words for _, f in self._world.air.of(self._world.in_air(state))
        )
        sender = not s.dead and not s.cut and s.end in ("", "done")
        receiver = not r.cut and not r.life and r.usable and (r.end == "adopted" or not (r.end or r.adopted))
        return sender and receiver and not spoilt

    def _waits_in_silence(self, state: int) -> bool:
        """Two waits that only the deadline, or the loss of the peer, ends if an ABORT was lost.

        An ended sender speaks with one life of the receiver only, so another life hears nothing of it. A
        sender that waits for credit says nothing, so a receiver that has forgotten cannot answer.
        """
        s, r = self._world.sides(state)
        paused = (
            s.open and s.cursor is not None and s.cursor < self._world.config.parts and s.seq == s.allowed
        )
        return (s.end != "" and s.epoch not in (None, r.life)) or (paused and not r.open)

    def _outcome(self, state: int, *, again: bool) -> Outcome:
        """Where the schedule leads; with ``again``, what got lost is said again."""
        known = self._reached[again]
        seen: set[int] = set()
        while state not in known:
            seen.add(state)
            _, _, after = self._next(state, seen, again)
            if after is None:
                known[state] = self._judge(state)
            else:
                state = after
        outcome = known[state]
        known.update(dict.fromkeys(seen, outcome))
        return outcome

    def _schedule(self, state: int, *, again: bool) -> list[tuple[int, Move]]:
        seen, steps = {state}, []
        while (best := self._next(state, seen, again))[2] is not None:
            steps.append((state, best[1]))
            state = best[2]
            seen.add(state)
        return steps

    def _judge(self, state: int) -> Outcome:
        s, r = self._world.sides(state)
        if s.end == "done" and r.end == "adopted":
            return Outcome.SUCCESS
        done = (s.dead or s.end) and not r.open and (r.end or not r.reserved)
        return Outcome.ENDED if done else Outcome.OPEN

    def _next(self, state: int, seen: set[int], again: bool) -> tuple[int, Any, int | None]:
        s, r = self._world.sides(state)
        cut = (r.cut or r.life > 0, s.cut or s.dead)  # what the sender will notice, and the receiver
        moves = [
            (rank, move, after)
            for move, after in self._world.moves(state)
            if after not in seen and not move.step.wrong and (rank := self._rank(move, again, cut))
        ]
        return min(moves, default=(0, None, None), key=lambda m: m[0])

    def _rank(self, move: Move, again: bool, cut: tuple[bool, bool]) -> int:
        """Lower goes first; 0 is not part of the schedule."""
        match move.step.kind:
            case Kind.COOPERATE | Kind.PUMP:
                return 1
            case Kind.FRAME if move.frame:
                frame = self._world.air.frames[move.frame.bit_length() - 1]
                return 3 if BAD in frame.words or frame.kind is Event.ABORT else 2
            case Kind.RETRY if again:
                return 4
            case Kind.PEER_LOST if cut[not move.by_sender]:
                return 5
        return 0


def _adopt_alone(turn: ReceivingTurn) -> None:
    """What has landed needs nothing more of its sender."""
    turn.peer_lost()
    turn.check(not turn.x.end, "what has landed is dropped with its peer")
    turn.adopt()
