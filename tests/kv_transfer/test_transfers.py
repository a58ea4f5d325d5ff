from __future__ import annotations

from kv_transfer import Timeouts, TransferId
from kv_transfer.protocol import RECEIVER_HURRIED, Event, ReceiverState
from kv_transfer.transfers import Ledger, OpenTransfer
from kv_transfer.transports.base import Peer

TIMEOUTS = Timeouts(retry_s=1.0, stall_s=10.0)


def _ledger(graves: int = 2) -> Ledger:
    return Ledger(RECEIVER_HURRIED, TIMEOUTS, graves)


def _transfer(name: str = "a", state: ReceiverState = ReceiverState.FILLING) -> OpenTransfer:
    peer, transfer = Peer(b"p"), TransferId(name)
    return OpenTransfer(transfer, peer, "e", state, deadline=30.0, retry_at=1.0, progress_at=0.0)


def _added(ledger: Ledger, *transfers: OpenTransfer) -> Ledger:
    for t in transfers:
        ledger.add(t)
    return ledger


def test_the_oldest_tombstones_go_first() -> None:
    ledger, all_of_them = _ledger(graves=2), [_transfer(name) for name in "abc"]
    _added(ledger, *all_of_them)
    for t in all_of_them:
        ledger.bury(t)
    assert [ledger.find(TransferId(name)) is None for name in "abc"] == [True, False, False]


def test_a_tombstone_is_found_but_not_open() -> None:
    t = _transfer()
    ledger = _added(_ledger(), t)
    ledger.bury(t)
    tombstone = ledger.find(t.id)
    assert (ledger.get(t.id), len(ledger)) == (None, 0)
    assert tombstone is not None
    assert (tombstone.state, type(tombstone) is OpenTransfer) == (t.state, False)


def test_what_was_never_open_is_not_buried() -> None:
    ledger, t = _ledger(), _transfer()
    assert ledger.bury(t) is None
    assert ledger.find(t.id) is None


def test_transfers_may_end_while_they_are_gone_through() -> None:
    ledger = _added(_ledger(), *(_transfer(name) for name in "abc"))
    for t in ledger:
        ledger.bury(t)
    assert len(ledger) == 0


def test_a_retry_is_due_once_every_retry_s() -> None:
    t = _transfer()
    ledger = _added(_ledger(), t)
    found = [ledger.overdue(now) for now in (0.9, 1.0, 1.9, 2.0)]
    assert found == [[], [(t, Event.RETRY)], [], [(t, Event.RETRY)]]


def test_only_a_hurried_transfer_stalls() -> None:
    slow, hurried = _transfer("a"), _transfer("b", ReceiverState.SEALING)
    ledger = _added(_ledger(), slow, hurried)
    assert ledger.overdue(10.0) == [(slow, Event.RETRY), (hurried, Event.DEADLINE)]
    assert hurried.code == "stalled"


def test_the_deadline_is_blamed_before_the_stall() -> None:
    t = _transfer(state=ReceiverState.SEALING)
    assert _added(_ledger(), t).overdue(30.0) == [(t, Event.DEADLINE)]
    assert t.code == "deadline"


def test_due_at_is_the_first_time_that_overdue_has_something() -> None:
    ledger, t = _ledger(), _transfer()
    assert ledger.due_at(otherwise=7.0) == 7.0
    assert _added(ledger, t).due_at(otherwise=7.0) == 1.0
    t.retry_at = 99.0
    assert ledger.due_at(otherwise=7.0) == 30.0
