"""Handoffs by NIXL between two nodes' processes, of which one is killed while bodies are being READ."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nixl_kinds
import numpy as np
import pytest
from kv_world import LAYOUT, Store
from nixl_far import SECRET, TOKENS

from kv_transfer import (
    Done,
    Dropped,
    Granted,
    Landed,
    Lost,
    Receiver,
    Reserved,
    Sender,
    open_receiver,
)
from kv_transfer.transports.base import Peer
from kv_transfer.transports.nixl import NixlListener
from kv_transfer.transports.nixl_dialer import NixlDialer

pytestmark = pytest.mark.soak

KV = Store(TOKENS, seed=7).kv


@pytest.fixture(params=[*nixl_kinds.KINDS, nixl_kinds.real("tcp")], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch, tmp_path: Path, sockets: Path) -> None:
    nixl_kinds.use(request.param, monkeypatch, tmp_path)


@pytest.fixture
def far() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        here = Path(__file__).parent
        path = [*filter(None, [os.environ.get("PYTHONPATH")]), str(here.parents[1]), str(here)]
        command = [sys.executable, str(Path(__file__).with_name("nixl_far.py")), *words]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def _kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()


class Decode:
    """A receiver that adopts all that lands, and holds its bytes to be what was sent."""

    def __init__(self) -> None:
        self.listener = open_receiver("nixl://127.0.0.1:*", SECRET)
        assert isinstance(self.listener, NixlListener)
        self.sink = Store(TOKENS)
        self.end = Receiver(self.listener, self.sink, LAYOUT, "near-d")
        self.began = 0  # bytes before the transfer in hand
        self.landed = 0
        self.dropped: list[Dropped] = []

    @property
    def reading(self) -> bool:
        """A READ of a body is under way, in the first quarter of a transfer."""
        sizes = [read.room.ref.size for read in self.listener._reads._issued.values()]
        early = self.end.counts.bytes - self.began < KV.nbytes // 4
        return early and self.end.open_transfers > 0 and max(sizes, default=0) > 1 << 20

    def until(self, wanted: Callable[[], bool], limit: float = 60.0) -> None:
        stop = time.monotonic() + limit
        while not wanted():
            assert time.monotonic() < stop
            for event in self.end.poll(time.monotonic()):
                match event:
                    case Reserved(transfer, num_tokens=tokens):
                        self.sink.kv[:] = 0
                        self.began = self.end.counts.bytes
                        self.end.grant(transfer, 0, np.arange(tokens))
                    case Landed(transfer):
                        assert np.array_equal(self.sink.kv, KV)
                        self.end.adopt(transfer)
                        self.landed += 1
                    case Dropped():
                        self.dropped.append(event)


def test_a_sender_that_is_killed_while_it_is_read_leaves_nothing_and_the_next_one_is_served(far) -> None:
    decode = Decode()
    for lost in (1, 2):
        _kill_one_that_is_read(decode, far("sender", decode.end.address))
        assert [event.code for event in decode.dropped] == ["peer_lost"] * lost
        assert (decode.end.open_transfers, decode.end.credit_bytes) == (0, 0)
    decode.until(lambda: not decode.listener._reads._issued, 10.0)
    decode.end.close()


def _kill_one_that_is_read(decode: Decode, child: subprocess.Popen[str]) -> None:
    landed, lost = decode.landed, len(decode.dropped)
    decode.until(lambda: decode.landed >= landed + 3 and decode.reading)
    _kill(child)
    decode.until(lambda: len(decode.dropped) > lost, 3.0)


def test_a_receiver_that_is_killed_while_it_reads_is_noticed_and_the_next_one_is_served(far) -> None:
    dialer = NixlDialer(SECRET)
    sender = Sender(dialer, Store(TOKENS, seed=7), LAYOUT, "near-p")
    for _ in range(2):
        _kill_one_that_reads(sender, dialer, far("receiver", "nixl://127.0.0.1:*"))
        assert sender.open_transfers == 0
    sender.close()


def _kill_one_that_reads(sender: Sender, dialer: NixlDialer, child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    address = child.stdout.readline().strip()
    peer = Peer(address.encode())

    def hurt() -> bool:
        return bool(dialer._links[peer].ring.used) and not _kill(child)

    while peer not in dialer._links or not dialer._links[peer].read:
        assert _hand_over(sender, address, lambda: False)
    assert not _hand_over(sender, address, hurt)


def _hand_over(sender: Sender, address: str, hurt: Callable[[], bool]) -> bool:
    """One transfer. True if it came through; if not, it was noticed soon after ``hurt`` had said so."""
    sender.reserve(address, TOKENS, b"", 60.0, time.monotonic())
    hurt_at = None
    while True:
        now = time.monotonic()
        for event in sender.poll(now):
            match event:
                case Granted(transfer):
                    sender.publish(transfer, np.arange(TOKENS), TOKENS)
                    sender.commit(transfer, b"first", now)
                case Done():
                    return True
                case Lost():
                    assert hurt_at is not None, event
                    assert time.monotonic() - hurt_at < 3.0
                    return False
        if hurt_at is None and hurt():
            hurt_at = time.monotonic()
