"""The handoff's rules: in which state, on which event, what is done and what comes next. Two tables, one a
side.

Knows names only: no clock, socket, byte, page or role of a node. ``sender.py`` and ``receiver.py`` are
shells that turn frames, calls and time into events and carry the actions out. Every state answers every
event, so nothing can be "unexpected"; what our own node must not do is MISUSE. The diagrams in the docs are
printed from here: ``python -m kv_transfer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Generic, NamedTuple, TypeVar


class Event(Enum):
    """What can happen to a transfer, at either side."""

    # frames from the peer, already checked to be its
    RESERVE = auto()
    GRANT = auto()
    REFUSE = auto()
    DATA = auto()  # in range, new, and its bytes agree with its checksum
    CORRUPT = auto()  # DATA whose bytes do not
    CREDIT = auto()
    COMMIT = auto()
    ADOPTED = auto()
    ABORT = auto()
    # calls of our own node
    DO_GRANT = auto()
    DO_REFUSE = auto()
    DO_PUBLISH = auto()
    DO_COMMIT = auto()
    DO_ADOPT = auto()
    DO_ABORT = auto()
    # what the shell finds out
    UNFIT = auto()  # a RESERVE or GRANT that cannot be taken: layout, size, too many open, out of range
    FLUSHED = auto()  # the last DATA frame is out
    COMPLETE = auto()  # every token is in, count and digest agree
    MISMATCH = auto()  # count or digest cannot agree any more
    RETRY = auto()  # no answer for a while
    DEADLINE = auto()
    PEER_LOST = auto()


class Action(Enum):
    """What the shell is to do, in the order of the rule."""

    SEND_RESERVE = auto()
    SEND_GRANT = auto()
    SEND_REFUSE = auto()
    SEND_CREDIT = auto()
    SEND_COMMIT = auto()
    SEND_ADOPTED = auto()
    SEND_ABORT = auto()
    TAKE_CREDIT = auto()
    WRITE = auto()  # the frame's bytes go to the pages: the only action that touches them
    KEEP_COMMIT = auto()
    TELL_RESERVED = auto()
    TELL_GRANTED = auto()
    TELL_REFUSED = auto()
    TELL_LANDED = auto()
    TELL_DONE = auto()
    TELL_LOST = auto()
    TELL_DROPPED = auto()
    COUNT_UNKNOWN = auto()
    COUNT_LATE = auto()
    COUNT_STRAY = auto()
    COUNT_CORRUPT = auto()
    MISUSE = auto()  # our own node called what this state does not allow: LocalProtocolError


class SenderState(Enum):
    NONE = auto()  # never heard of it, or long forgotten
    RESERVING = auto()  # RESERVE is out
    STREAMING = auto()  # granted; more tokens are to be published
    FLUSHING = auto()  # all is published; DATA is still to go
    COMMITTED = auto()  # COMMIT is out
    DONE = auto()
    REFUSED = auto()
    LOST = auto()


class ReceiverState(Enum):
    NONE = auto()
    RESERVED = auto()  # our node is thinking about it
    FILLING = auto()  # granted: the only states in which pages are written are this
    SEALING = auto()  # and this, when COMMIT has overtaken the last DATA
    LANDED = auto()  # whole and verified; our node has not taken it yet
    ADOPTED = auto()
    REFUSED = auto()
    DROPPED = auto()


State = TypeVar("State", SenderState, ReceiverState)


class Rule(NamedTuple, Generic[State]):
    next: State
    actions: tuple[Action, ...]


Table = Mapping[State, Mapping[Event, Rule[State]]]
_Row = dict[Event, tuple[State, list[Action]]]

_E, _A, _S, _R = Event, Action, SenderState, ReceiverState

_OWN_CALLS = {_E.DO_GRANT, _E.DO_REFUSE, _E.DO_PUBLISH, _E.DO_COMMIT, _E.DO_ADOPT, _E.DO_ABORT}
_FINDINGS = {_E.UNFIT, _E.FLUSHED, _E.COMPLETE, _E.MISMATCH, _E.RETRY, _E.DEADLINE, _E.PEER_LOST}
_FRAMES = set(Event) - _OWN_CALLS - _FINDINGS


def _row(
    state: State, rules: _Row[State], *, frames: list[Action], calls: list[Action]
) -> dict[Event, Rule[State]]:
    """The rules of one state; events without a rule stay in it with the default of their kind."""
    row = {event: Rule(state, ()) for event in _FINDINGS}
    row |= {event: Rule(state, tuple(frames)) for event in _FRAMES}
    row |= {event: Rule(state, tuple(calls)) for event in _OWN_CALLS}
    return row | {event: Rule(target, tuple(actions)) for event, (target, actions) in rules.items()}


def _open(state: State, rules: _Row[State]) -> dict[Event, Rule[State]]:
    return _row(state, rules, frames=[_A.COUNT_STRAY], calls=[_A.MISUSE])


def _ended(state: State, rules: _Row[State]) -> dict[Event, Rule[State]]:
    """Calls for a transfer that has ended are not misuse: the node may not have read of it yet."""
    return _row(state, rules, frames=[_A.COUNT_LATE], calls=[])


def _unknown(state: State, rules: _Row[State]) -> dict[Event, Rule[State]]:
    return _row(state, rules, frames=[_A.COUNT_UNKNOWN], calls=[])


# What ends a sender's transfer in any open state.
_SENDER_ENDS: _Row[SenderState] = {
    _E.ABORT: (_S.LOST, [_A.TELL_LOST]),
    _E.DO_ABORT: (_S.LOST, [_A.SEND_ABORT]),
    _E.DEADLINE: (_S.LOST, [_A.SEND_ABORT, _A.TELL_LOST]),
    _E.PEER_LOST: (_S.LOST, [_A.TELL_LOST]),
}
_STOP_IT: tuple[Event, ...] = (_E.GRANT, _E.CREDIT)  # frames that show the receiver still holds pages for it

SENDER: Table[SenderState] = {
    _S.NONE: _unknown(_S.NONE, {e: (_S.NONE, [_A.COUNT_UNKNOWN, _A.SEND_ABORT]) for e in _STOP_IT}),
    _S.RESERVING: _open(
        _S.RESERVING,
        _SENDER_ENDS
        | {
            _E.GRANT: (_S.STREAMING, [_A.TAKE_CREDIT, _A.TELL_GRANTED]),
            _E.REFUSE: (_S.REFUSED, [_A.TELL_REFUSED]),
            _E.UNFIT: (_S.LOST, [_A.SEND_ABORT, _A.TELL_LOST]),
            _E.RETRY: (_S.RESERVING, [_A.SEND_RESERVE]),
        },
    ),
    _S.STREAMING: _open(
        _S.STREAMING,
        _SENDER_ENDS
        | {
            _E.GRANT: (_S.STREAMING, []),  # the answer to a repeated RESERVE
            _E.CREDIT: (_S.STREAMING, [_A.TAKE_CREDIT]),
            _E.DO_PUBLISH: (_S.STREAMING, []),
            _E.DO_COMMIT: (_S.FLUSHING, []),
        },
    ),
    _S.FLUSHING: _open(
        _S.FLUSHING,
        _SENDER_ENDS
        | {
            _E.GRANT: (_S.FLUSHING, []),
            _E.CREDIT: (_S.FLUSHING, [_A.TAKE_CREDIT]),
            _E.FLUSHED: (_S.COMMITTED, [_A.SEND_COMMIT]),
        },
    ),
    _S.COMMITTED: _open(
        _S.COMMITTED,
        _SENDER_ENDS
        | {
            _E.GRANT: (_S.COMMITTED, []),
            _E.CREDIT: (_S.COMMITTED, [_A.TAKE_CREDIT]),
            _E.ADOPTED: (_S.DONE, [_A.TELL_DONE]),
            _E.RETRY: (_S.COMMITTED, [_A.SEND_COMMIT]),
        },
    ),
    _S.DONE: _ended(_S.DONE, {}),
    # A repeated RESERVE that comes when the receiver has died or forgotten reserves once more.
    _S.REFUSED: _ended(_S.REFUSED, {e: (_S.REFUSED, [_A.COUNT_LATE, _A.SEND_ABORT]) for e in _STOP_IT}),
    _S.LOST: _ended(
        _S.LOST,
        {
            **{e: (_S.LOST, [_A.COUNT_LATE, _A.SEND_ABORT]) for e in _STOP_IT},
            _E.ABORT: (_S.LOST, []),  # both gave up at once
        },
    ),
}

# What ends a receiver's transfer in any open state.
_RECEIVER_ENDS: _Row[ReceiverState] = {
    _E.ABORT: (_R.DROPPED, [_A.TELL_DROPPED]),
    _E.DO_ABORT: (_R.DROPPED, [_A.SEND_ABORT]),
    _E.DEADLINE: (_R.DROPPED, [_A.SEND_ABORT, _A.TELL_DROPPED]),
    _E.PEER_LOST: (_R.DROPPED, [_A.TELL_DROPPED]),
}
_TAKE_DATA: list[Action] = [_A.WRITE, _A.SEND_CREDIT]
_CORRUPTED: tuple[ReceiverState, list[Action]] = (
    _R.DROPPED,
    [_A.COUNT_CORRUPT, _A.SEND_ABORT, _A.TELL_DROPPED],
)

RECEIVER: Table[ReceiverState] = {
    _R.NONE: _unknown(
        _R.NONE,
        {
            _E.RESERVE: (_R.RESERVED, [_A.TELL_RESERVED]),
            _E.UNFIT: (_R.REFUSED, [_A.SEND_REFUSE]),
            _E.DATA: (_R.NONE, [_A.COUNT_UNKNOWN, _A.SEND_ABORT]),
            _E.COMMIT: (_R.NONE, [_A.COUNT_UNKNOWN, _A.SEND_ABORT]),
        },
    ),
    _R.RESERVED: _open(
        _R.RESERVED,
        _RECEIVER_ENDS
        | {
            _E.RESERVE: (_R.RESERVED, []),  # repeated while our node thinks
            _E.DO_GRANT: (_R.FILLING, [_A.SEND_GRANT]),
            _E.DO_REFUSE: (_R.REFUSED, [_A.SEND_REFUSE]),
        },
    ),
    _R.FILLING: _open(
        _R.FILLING,
        _RECEIVER_ENDS
        | {
            _E.RESERVE: (_R.FILLING, [_A.SEND_GRANT]),  # the GRANT was lost
            _E.DATA: (_R.FILLING, _TAKE_DATA),
            _E.CORRUPT: _CORRUPTED,
            _E.COMMIT: (_R.SEALING, [_A.KEEP_COMMIT]),
            _E.RETRY: (_R.FILLING, [_A.SEND_CREDIT]),
        },
    ),
    _R.SEALING: _open(
        _R.SEALING,
        _RECEIVER_ENDS
        | {
            _E.RESERVE: (_R.SEALING, []),
            _E.DATA: (_R.SEALING, _TAKE_DATA),
            _E.CORRUPT: _CORRUPTED,
            _E.COMMIT: (_R.SEALING, []),
            _E.COMPLETE: (_R.LANDED, [_A.TELL_LANDED]),
            _E.MISMATCH: (_R.DROPPED, [_A.SEND_ABORT, _A.TELL_DROPPED]),
        },
    ),
    _R.LANDED: _open(
        _R.LANDED,
        _RECEIVER_ENDS
        | {
            _E.RESERVE: (_R.LANDED, []),
            _E.DATA: (_R.LANDED, [_A.COUNT_LATE]),
            _E.CORRUPT: (_R.LANDED, [_A.COUNT_LATE]),
            _E.COMMIT: (_R.LANDED, []),
            _E.DO_ADOPT: (_R.ADOPTED, [_A.SEND_ADOPTED]),
            _E.PEER_LOST: (_R.LANDED, []),  # nothing more is needed from it
        },
    ),
    _R.ADOPTED: _ended(_R.ADOPTED, {_E.COMMIT: (_R.ADOPTED, [_A.COUNT_LATE, _A.SEND_ADOPTED])}),
    _R.REFUSED: _ended(
        _R.REFUSED,
        {
            _E.RESERVE: (_R.REFUSED, [_A.COUNT_LATE, _A.SEND_REFUSE]),
            # It was granted once before, and that is forgotten.
            **{e: (_R.REFUSED, [_A.COUNT_LATE, _A.SEND_ABORT]) for e in (_E.DATA, _E.COMMIT)},
        },
    ),
    _R.DROPPED: _ended(
        _R.DROPPED,
        {
            **{e: (_R.DROPPED, [_A.COUNT_LATE, _A.SEND_ABORT]) for e in (_E.RESERVE, _E.DATA, _E.COMMIT)},
            _E.ABORT: (_R.DROPPED, []),
        },
    ),
}

SENDER_OPEN = frozenset({_S.RESERVING, _S.STREAMING, _S.FLUSHING, _S.COMMITTED})
RECEIVER_OPEN = frozenset({_R.RESERVED, _R.FILLING, _R.SEALING, _R.LANDED})
SENDER_HURRIED = frozenset({_S.FLUSHING, _S.COMMITTED})  # nothing but the wire and the peer is waited for
RECEIVER_HURRIED = frozenset({_R.SEALING, _R.LANDED})
WRITABLE = frozenset({_R.FILLING, _R.SEALING})


def diagram(table: Table[State]) -> str:
    """The table as mermaid text: every change of state, with its events and actions."""
    arrows: dict[tuple[State, Rule[State]], list[str]] = {}
    for state, row in table.items():
        for event in Event:
            if (rule := row[event]).next is not state:
                arrows.setdefault((state, rule), []).append(event.name)
    lines = ["stateDiagram-v2"]
    for (state, rule), events in arrows.items():
        what = " or ".join(events) + " / " + ", ".join(action.name.lower() for action in rule.actions)
        lines.append(f"    {state.name} --> {rule.next.name}: {what.removesuffix(' / ')}")
    return "\n".join(lines) + "\n"
