from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.mailbox import Peer
from pagewire.messages import Epoch, NodeId
from router.ledger import Ledger

LINK = Peer(NodeId("prefill-0"), Epoch("e")), Peer(NodeId("decode-0"), Epoch("e"))


def test_a_prompt_that_is_read_still_takes_room_to_write() -> None:
    ledger = Ledger()
    ledger.opened(0.0, "r", 0, LINK, prompt=50, unread=20, reserve=80)
    assert (ledger.prefilling[LINK[0]], ledger.unread[LINK[0]]) == (50, 20)
    ledger.handed("r", 0)
    assert (ledger.prefilling[LINK[0]], ledger.unread[LINK[0]]) == (0, 0)
    assert (ledger.decoding[LINK[1]], ledger.writing[LINK[1]]) == (80, 1)


def test_what_was_sent_lately_is_known_apart() -> None:
    ledger = Ledger()
    for number in range(4):
        ledger.opened(float(number), "r", number, LINK, prompt=9, unread=number, reserve=9)
    ledger.handed("r", 2)
    assert ledger.unread_since(LINK[0], 0.5) == 1 + 3
    assert ledger.unread_since(LINK[0], 3.0) == 0


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 99), st.booleans()), max_size=20))
@settings(deadline=None)
def test_the_ledger_ends_empty(sent: list[tuple[int, int, bool]]) -> None:
    ledger = Ledger()
    for number, (prompt, more, _) in enumerate(sent):
        ledger.opened(0.0, "r", number, LINK, prompt=prompt, unread=prompt // 2, reserve=prompt + more)
    for number, (_, _, handed) in enumerate(sent):
        if handed:
            ledger.handed("r", number)
            ledger.handed("r", number)
        ledger.closed("r", number)
    assert ledger == Ledger()
    assert ledger.placed == len(sent)
