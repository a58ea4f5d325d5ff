"""When a node says that it does not get through to its router."""

from __future__ import annotations

import zmq

from pagewire.dialling import ABANDONED_S, AGAIN_S, PATIENCE_S, TRIES, Dialling

ADDRESS = "tcp://10.0.0.1:7500"
UP, DOWN, RETRIED, CLOSED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED,
    zmq.EVENT_DISCONNECTED,
    zmq.EVENT_CONNECT_RETRIED,
    zmq.EVENT_CLOSED,
)


def told(dialling: Dialling, *events: int, start: float = 0.0, every: float = 0.1) -> list[tuple[float, str]]:
    """What is said, and when, of events that come one after the other."""
    said = []
    for number, event in enumerate(events):
        now = start + number * every
        if (text := dialling.saw(now, event)) is not None:
            said.append((now, text))
    return said


def test_several_connections_that_come_to_nothing_are_told_once_a_minute() -> None:
    dialling = Dialling(ADDRESS)
    assert told(dialling, *[DOWN] * (TRIES - 1)) == []
    said = told(dialling, *[DOWN, RETRIED] * 700, start=1.0, every=0.1)
    assert [at for at, _ in said] == [1.0, 1.0 + AGAIN_S, 1.0 + 2 * AGAIN_S]
    assert ADDRESS in said[0][1]
    assert "secret" in said[0][1]
    assert "something else" in said[0][1]


def test_a_router_that_is_away_is_told_after_a_while_in_other_words() -> None:
    said = told(Dialling(ADDRESS), *[CLOSED, RETRIED] * 800, every=0.05)
    assert [round(at, 6) for at, _ in said] == [PATIENCE_S, PATIENCE_S + AGAIN_S]
    assert ADDRESS in said[0][1]
    assert "reached" in said[0][1]
    assert "secret" not in said[0][1]


def test_a_router_that_restarts_is_not_worth_a_word() -> None:
    away = [CLOSED, RETRIED] * int(PATIENCE_S - 1)
    assert told(Dialling(ADDRESS), UP, *[DOWN, RETRIED, *away, UP] * 5, every=0.5) == []


def test_a_connection_that_was_up_and_broke_is_no_refusal() -> None:
    assert told(Dialling(ADDRESS), *[UP, DOWN, RETRIED] * 10) == []


def test_it_is_dialled_anew_where_zeromq_has_given_up() -> None:
    dialling = Dialling(ADDRESS)
    told(dialling, DOWN)
    assert not dialling.abandoned(ABANDONED_S / 2)
    assert dialling.abandoned(ABANDONED_S)
    assert not dialling.abandoned(ABANDONED_S)  # it was, by now


def test_it_is_not_where_zeromq_goes_on() -> None:
    dialling = Dialling(ADDRESS)
    told(dialling, UP, DOWN, RETRIED)
    assert not dialling.abandoned(100.0)
