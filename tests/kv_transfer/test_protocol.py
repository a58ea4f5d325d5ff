from __future__ import annotations

import pytest

from kv_transfer.protocol import (
    RECEIVER,
    RECEIVER_OPEN,
    SENDER,
    SENDER_OPEN,
    WRITABLE,
    Action,
    Event,
    ReceiverState,
    SenderState,
    diagram,
)

SENDER_CELLS = [(s, e) for s in SenderState for e in Event]
RECEIVER_CELLS = [(s, e) for s in ReceiverState for e in Event]
SENDER_ONLY = {Action.SEND_RESERVE, Action.SEND_COMMIT, Action.TAKE_CREDIT} | {
    a for a in Action if a.name in ("TELL_GRANTED", "TELL_REFUSED", "TELL_DONE", "TELL_LOST")
}
EITHER = {Action.SEND_ABORT, Action.MISUSE} | {a for a in Action if a.name.startswith("COUNT_")}


@pytest.mark.parametrize(("state", "event"), SENDER_CELLS)
def test_every_sender_state_answers_every_event_with_what_a_sender_can_do(
    state: SenderState, event: Event
) -> None:
    assert set(SENDER[state][event].actions) <= SENDER_ONLY | EITHER


@pytest.mark.parametrize(("state", "event"), RECEIVER_CELLS)
def test_every_receiver_state_answers_every_event_with_what_a_receiver_can_do(
    state: ReceiverState, event: Event
) -> None:
    assert not set(RECEIVER[state][event].actions) & SENDER_ONLY


def test_pages_are_written_in_writable_states_only() -> None:
    writing = {s for s, e in RECEIVER_CELLS if Action.WRITE in RECEIVER[s][e].actions}
    assert writing == WRITABLE


def test_no_ended_transfer_comes_back() -> None:
    ended = [(SENDER, s) for s in set(SenderState) - SENDER_OPEN]
    ended += [(RECEIVER, s) for s in set(ReceiverState) - RECEIVER_OPEN - {ReceiverState.NONE}]
    assert all(rule.next is state for table, state in ended for rule in table[state].values())


def test_nothing_is_kept_of_what_is_unknown_but_a_reservation() -> None:
    kept = [(s, e) for s, e in SENDER_CELLS if s is SenderState.NONE and SENDER[s][e].next is not s]
    kept += [(s, e) for s, e in RECEIVER_CELLS if s is ReceiverState.NONE and RECEIVER[s][e].next is not s]
    assert kept == [(ReceiverState.NONE, Event.RESERVE), (ReceiverState.NONE, Event.UNFIT)]


def test_a_frame_for_what_is_unknown_or_ended_is_counted() -> None:
    frames = [e for e in Event if e.value <= Event.ABORT.value]
    ended = [(SENDER[s], s) for s in set(SenderState) - SENDER_OPEN]
    ended += [(RECEIVER[s], s) for s in set(ReceiverState) - RECEIVER_OPEN]
    counted = {Action.COUNT_LATE, Action.COUNT_UNKNOWN, Action.TELL_RESERVED}
    silent = [(s, e) for row, s in ended for e in frames if not counted & set(row[e].actions)]
    assert sorted(silent, key=str) == [(ReceiverState.DROPPED, Event.ABORT), (SenderState.LOST, Event.ABORT)]


def test_a_deadline_ends_every_open_state_and_tells_the_node() -> None:
    rules = [SENDER[s][Event.DEADLINE] for s in SENDER_OPEN]
    rules += [RECEIVER[s][Event.DEADLINE] for s in RECEIVER_OPEN]
    assert all(r.next.name in ("LOST", "DROPPED") and r.actions[-1].name.startswith("TELL_") for r in rules)


@pytest.mark.parametrize("table", [SENDER, RECEIVER], ids=["sender", "receiver"])
def test_the_node_is_told_of_an_end_exactly_once_unless_it_ended_it(table) -> None:
    open_states = SENDER_OPEN | RECEIVER_OPEN
    for state in open_states & table.keys():
        for event, rule in table[state].items():
            if rule.next not in open_states:
                told = sum(a.name.startswith("TELL_") for a in rule.actions)
                assert told == (not event.name.startswith("DO_")), (state, event)


@pytest.mark.parametrize("table", [SENDER, RECEIVER], ids=["sender", "receiver"])
def test_an_abort_is_never_answered(table) -> None:
    assert all(Action.SEND_ABORT not in row[Event.ABORT].actions for row in table.values())


@pytest.mark.parametrize(
    ("table", "start"),
    [(SENDER, SenderState.RESERVING), (RECEIVER, ReceiverState.NONE)],
    ids=["sender", "receiver"],
)
def test_every_state_can_be_reached(table, start) -> None:
    reached, todo = set(), [start]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += [rule.next for rule in table[state].values()]
    assert reached | {SenderState.NONE, ReceiverState.NONE} >= table.keys()


def test_the_diagram_has_an_arrow_for_every_change_of_state() -> None:
    changes = sum(SENDER[s][e].next is not s for s, e in SENDER_CELLS)
    assert diagram(SENDER).count("-->") + diagram(SENDER).count(" or ") == changes
    assert "FILLING --> SEALING: COMMIT / keep_commit" in diagram(RECEIVER)
    assert "RESERVED --> DROPPED: ABORT or PEER_LOST / tell_dropped" in diagram(RECEIVER)
