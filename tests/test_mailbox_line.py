"""A line as a state machine, in any order of events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.mailbox.line import ASK_AGAIN_S, GIVEN_UP_AFTER_S, TELL_AGAIN_S, Line
from pagewire.messages import Epoch, NodeId, Welcome


def welcome(session: int) -> Welcome:
    return Welcome(NodeId("r"), Epoch("e"), "", session)


EVENTS = st.one_of(
    st.sampled_from([("beat",), ("connected",), ("cut",), ("lost",)]),
    st.tuples(st.just("welcome"), st.integers(-1, 1)),  # to the session of that distance
    st.tuples(st.just("no"), st.sampled_from(["layout", "version"])),
)


class Driven:
    """A line, and what it ought to be."""

    def __init__(self) -> None:
        self.line = Line()
        self.joined = False
        self.no_at: float | None = None  # refused, over the connection that stands
        self.told = dict[str, float]()
        self.sessions = [1]

    def __call__(self, now: float, event: tuple[Any, ...]) -> None:
        match event:
            case ("beat",):
                self._beat(now)
            case ("connected",):
                self.line.connected()
                assert self.line.greeting != self.joined
            case ("cut" | "lost" as what,):
                lost = self.line.cut() if what == "cut" else self.line.lost()
                assert lost == ("r" if self.joined else None)
                self.joined = False
                self.no_at = None if what == "cut" else self.no_at
            case ("welcome", distance):
                fits = self.line.welcomed(welcome(self.line.session + distance))
                assert fits == (distance == 0)
                if fits:
                    self.joined, self.no_at = True, None
            case ("no", reason):
                if not self.joined:  # one that has joined is lost first
                    self.line.turned_down(now, reason)
                    self.no_at = now
        self.sessions.append(self.line.session)
        assert self.sessions == sorted(self.sessions)
        assert self.line.joined == self.joined
        assert bool(self.line.refused) == (self.no_at is not None)

    def _beat(self, now: float) -> None:
        asks = self.line.wants_in(now)
        rests = self.no_at is not None and now - self.no_at < ASK_AGAIN_S
        assert asks == (not self.joined and not rests)
        if asks and self.no_at is not None:
            self.no_at = now


@given(st.lists(st.tuples(st.floats(0, 2 * ASK_AGAIN_S, width=16), EVENTS), max_size=30))
def test_in_any_order_a_hello_is_said_when_it_is_due_and_not_before(
    events: list[tuple[float, tuple[Any, ...]]],
) -> None:
    drive, now = Driven(), 0.0
    for waited, event in events:
        now += waited
        drive(now, event)


@pytest.mark.parametrize("between", ["cut", "lost"])
def test_a_reason_is_told_once_a_minute_and_another_at_once(between: str) -> None:
    line = Line()
    told = [
        getattr(line, between)() or line.turned_down(now, reason)
        for now, reason in (
            (0.0, "layout"),
            (1.0, "layout"),
            (2.0, "version"),
            (3.0, "version"),
            (2.0 + TELL_AGAIN_S, "version"),
        )
    ]
    assert told == [True, False, True, False, True]


def test_only_who_is_joined_can_be_silent() -> None:
    line = Line()
    assert not line.silent(1e6)
    line.heard = 1e6
    assert line.welcomed(welcome(1))
    assert not line.silent(1e6 + GIVEN_UP_AFTER_S - 0.1)
    assert line.silent(1e6 + GIVEN_UP_AFTER_S)
