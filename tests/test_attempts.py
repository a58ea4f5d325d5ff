from __future__ import annotations

from pagewire.attempts import Attempts
from pagewire.messages import RequestId

A, B = RequestId("a"), RequestId("b")


def test_an_attempt_is_begun_once() -> None:
    attempts = Attempts()
    assert [attempts.begin(*key) for key in ((A, 0), (A, 1), (B, 0), (A, 0), (B, 0))] == [True] * 3 + [
        False
    ] * 2


def test_the_oldest_are_forgotten() -> None:
    attempts = Attempts(most=2)
    for number in range(3):
        attempts.begin(A, number)
    assert not attempts.begin(A, 2)
    assert attempts.begin(A, 0)
