"""A sender that knows more receivers than ZeroMQ lets a process dial by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kv_transfer.transports import zeromq
from kv_transfer.transports.base import Peer
from kv_transfer.transports.zeromq import Dealers
from pagewire.open_files import allow_files


@pytest.fixture
def dealers() -> Iterator[Dealers]:
    allow_files()
    made = Dealers(None)
    yield made
    made.close()


def links(dealers: Dealers, count: int) -> list[Peer]:
    """Those that were dialled, though nobody is there."""
    peers = [Peer(f"ipc:///nowhere/{number}".encode()) for number in range(count)]
    for peer in peers:
        dealers.send(peer, [b"hello"])
    return [peer for peer in peers if dealers._links[peer] is not None]


def test_more_than_zeromq_allows_by_itself(dealers: Dealers) -> None:
    assert len(links(dealers, 400)) == 400


def test_one_too_many_cannot_be_dialled_and_the_others_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeromq, "_SOCKETS", 30)
    few = Dealers(None)
    try:
        assert 0 < len(links(few, 20)) < 20
        assert few.lost([Peer(b"ipc:///nowhere/19")]) == [b"ipc:///nowhere/19"]
    finally:
        few.close()
