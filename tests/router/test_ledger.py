from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.mailbox import Peer
from pagewire.messages import Epoch, NodeId
from router.ledger import Ledger

LINK = Peer(NodeId("prefill-0"), Epoch("e")), Peer(NodeId("decode-0"), Epoch("e"))


def test_a_prompt_that_is_read_still_takes_room_to_write() -> None:
    ledger = Ledger()
    ledger.opened("r", 0, LINK, 50, 20, 80)
    assert (ledger.prefilling[LINK[0]], ledger.unread[LINK[0]]) == (50, 20)
    ledger.handed("r", 0)
    assert (ledger.prefilling[LINK[0]], ledger.unread[LINK[0]]) == (0, 0)
    assert (ledger.decoding[LINK[1]], ledger.writing[LINK[1]]) == (80, 1)


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 99), st.booleans()), max_size=20))
@settings(deadline=None)
def test_the_ledger_ends_empty(sent: list[tuple[int, int, bool]]) -> None:
    ledger = Ledger()
    for number, (prompt, more, _) in enumerate(sent):
        ledger.opened("r", number, LINK, prompt, prompt // 2, prompt + more)
    for number, (_, _, handed) in enumerate(sent):
        if handed:
            ledger.handed("r", number)
            ledger.handed("r", number)
        ledger.closed("r", number)
    assert ledger == Ledger()
    assert ledger.placed == len(sent)
