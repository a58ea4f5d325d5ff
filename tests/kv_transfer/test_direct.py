"""The way from device to device with both ends in one process: pages to pages, through the socket of ``shm``,
and what goes wrong there. Without a GPU, a file that both ends map stands for its memory. ``test_cuda_ipc``
has two processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lent_memory import FileShare, OwnShare

from kv_transfer import (
    Done,
    Dropped,
    Granted,
    Landed,
    Limits,
    Lost,
    Receiver,
    Reserved,
    Sender,
    open_receiver,
    open_sender,
)
from kv_transfer.transports.base import Peer
from kv_transfer.transports.direct import NUMBER, Lent, Ref
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging import PinnedPages
from pagewire.errors import RemoteProtocolError
from pagewire.layout import KVLayout

LAYOUT = KVLayout(layers=4, kv_heads=2, head_dim=16, dtype="float16", model="m")
TOKENS, SLOTS, BLOCK = 500, 512, 8192
LIMITS = Limits(frame_bytes=BLOCK)
SMALL = {"size": 1 << 16, "out": 2, "into": 2}
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")


def some_pages(page_size: int, share: FileShare | None, *, filled: bool) -> tuple[KVCache, PinnedPages]:
    cache = KVCache(LAYOUT, SLOTS // page_size, page_size, DEVICE)
    if filled:
        cache.pages.copy_(torch.randn(cache.pages.shape).half())
    pages = PinnedPages(cache, None, share, block=BLOCK, **SMALL)
    pages.warm_up()
    return cache, pages


class Pair:
    """A prefill and a decode node's ends in this process, and one prompt's KV."""

    def __init__(self, folder: Path, lends: str = "", maps: str = "", limits: Limits = LIMITS) -> None:
        share = OwnShare if GPU else FileShare
        self.ours, self.theirs = share(folder, lends), share(folder, maps)
        self.source, pages = some_pages(16, self.ours, filled=True)
        self.listen("d", limits)
        self.dialer = open_sender(None, pages.lender())
        self.sender = Sender(self.dialer, pages, LAYOUT, "p", groups=2)
        self.take, self.give = (np.random.default_rng(seed).permutation(SLOTS)[:TOKENS] for seed in (1, 2))
        self.seen: list[object] = []

    def listen(self, epoch: str, limits: Limits = LIMITS) -> None:
        self.target, self.sink = some_pages(32, self.theirs, filled=False)
        listener = open_receiver("shm://*", None, self.sink.landing, self.sink.borrower())
        self.receiver = Receiver(listener, self.sink, LAYOUT, epoch, limits)
        self.peer = Peer(self.receiver.address.encode())

    @property
    def shared(self):
        return self.dialer._wires[b"shm"]._shared[self.peer]

    def reserve(self) -> None:
        self.sender.reserve(self.receiver.address, TOKENS, b"who", 60.0, time.monotonic())

    def turn(self, *, sends: bool = True) -> None:
        now = time.monotonic()
        for event in [*(self.sender.poll(now) if sends else ()), *self.receiver.poll(now)]:
            self.seen.append(event)
            match event:
                case Reserved(transfer):
                    self.receiver.grant(transfer, 0, self.give)
                case Granted(transfer):
                    self.sender.publish(transfer, self.take, TOKENS)
                    self.sender.commit(transfer, b"first", now)
                case Landed(transfer):
                    self.receiver.adopt(transfer)

    def until(self, wanted: Callable[[], object], *, sends: bool = True) -> None:
        """``sends``: or does only the receiver look at what is there?"""
        stop = time.monotonic() + 20
        while not wanted():
            assert time.monotonic() < stop, self.seen
            self.turn(sends=sends)

    def saw(self, kind: type) -> bool:
        return any(isinstance(event, kind) for event in self.seen)

    def whole(self) -> bool:
        source, target = (each.pages.cpu().flatten(2, 3) for each in (self.source, self.target))
        other = np.setdiff1d(np.arange(SLOTS), self.give)
        untouched = not target[:, :, torch.from_numpy(other)].any()
        return untouched and torch.equal(
            target[:, :, torch.from_numpy(self.give)], source[:, :, torch.from_numpy(self.take)]
        )

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


@pytest.fixture
def pair(tmp_path: Path, sockets: Path) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(**words) -> Pair:
        made.append(Pair(tmp_path, **words))
        return made[-1]

    yield make
    for each in made:
        each.close()


def no_host(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on it is an error if a body touches the host."""

    def refuse(*_: object) -> None:
        raise AssertionError("a body went through the host's memory")

    monkeypatch.setattr(pair.sender._store, "begin", refuse)
    monkeypatch.setattr(pair.sink._in, "write", refuse)


def test_kv_goes_from_pages_to_pages_and_touches_no_host_memory(
    pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = pair()
    no_host(two, monkeypatch)
    for _ in range(2):
        two.seen.clear()
        two.reserve()
        two.until(lambda: two.saw(Done))
        assert two.whole()
        two.target.pages.zero_()
    assert two.receiver.counts.frames > 2 * 16  # every block was used more than once
    two.until(lambda: two.shared.lent.used == 0)


@pytest.mark.parametrize("words", [{"lends": "lend"}, {"maps": "map"}])
def test_what_cannot_be_lent_or_mapped_goes_through_host_memory(
    pair: Callable[..., Pair], words: dict[str, str]
) -> None:
    two = pair(**words)
    two.reserve()
    two.until(lambda: two.saw(Done))
    assert two.whole()


def test_a_frame_larger_than_a_block_goes_through_host_memory(pair: Callable[..., Pair]) -> None:
    two = pair(limits=Limits(frame_bytes=2 * BLOCK))
    two.reserve()
    two.until(lambda: two.saw(Done))
    assert two.whole()
    assert two.shared.lent.mapped


def on_its_way(two: Pair) -> torch.Tensor:
    """The lent memory, with frames in it that the receiver has not looked at."""
    two.reserve()
    two.until(lambda: two.saw(Granted))
    two.sender.poll(time.monotonic())
    assert two.shared.lent.used
    return two.ours.lent[0]


@pytest.mark.parametrize("bit", [1, 128])
def test_a_damaged_slab_is_counted_and_writes_no_page(pair: Callable[..., Pair], bit: int) -> None:
    two = pair()
    memory = on_its_way(two)
    memory[4096 + 1000] ^= bit
    if GPU:
        torch.cuda.synchronize()
    two.until(lambda: two.saw(Dropped), sends=False)
    assert two.receiver.counts.corrupt == 1
    assert [event.code for event in two.seen if isinstance(event, Dropped)] == ["corrupt"]
    assert not two.target.pages.any()
    two.until(lambda: two.saw(Lost))


def test_a_block_that_is_used_again_too_early_is_found_out(pair: Callable[..., Pair]) -> None:
    two = pair()
    on_its_way(two)
    lent = two.shared.lent
    lent.took(NUMBER.pack(0))  # which nobody said
    lent._free.appendleft(lent._free.pop())
    copy = lent.begin(two.take[-10:], slice(2, 4), 1280)
    assert copy is not None
    while not copy.ready():
        pass
    two.until(lambda: two.saw(Dropped), sends=False)
    assert two.receiver.counts.corrupt == 1
    assert not two.target.pages.any()


def test_a_receiver_that_takes_nothing_stops_the_sender_at_its_blocks(pair: Callable[..., Pair]) -> None:
    two = pair()
    two.reserve()
    two.until(lambda: two.receiver.counts.frames == 1)  # then it has credit for all
    for _ in range(50):
        two.sender.poll(time.monotonic())
        time.sleep(0.001)
    assert two.sender.counts.frames == 1 + 16
    assert two.shared.lent.used == 16
    assert two.sender.due_in(time.monotonic()) > 0.0  # the receiver's word will wake it
    two.until(lambda: two.saw(Done))
    assert two.whole()


def test_blocks_of_a_transfer_that_ends_come_back(pair: Callable[..., Pair]) -> None:
    two = pair()
    on_its_way(two)
    transfer = next(event.transfer for event in two.seen if isinstance(event, Granted))
    two.sender.abort(transfer, "cancelled", "")
    two.until(lambda: two.saw(Dropped))
    two.until(lambda: two.shared.lent.used == 0)
    assert two.receiver.counts.corrupt == 0


def test_blocks_of_a_receiver_that_is_gone_are_used_for_the_next(pair: Callable[..., Pair]) -> None:
    two = pair()
    on_its_way(two)
    two.receiver.close()
    stop = time.monotonic() + 10
    while not two.saw(Lost):
        assert time.monotonic() < stop
        two.seen += two.sender.poll(time.monotonic())
    two.listen("e")
    two.seen.clear()
    two.reserve()
    two.until(lambda: two.saw(Done))
    assert two.whole()
    assert len(two.ours.lent) == 1
    assert len(two.theirs.mapped) == 2


def test_memory_of_a_sender_that_is_gone_is_unmapped(pair: Callable[..., Pair]) -> None:
    two = pair()
    on_its_way(two)
    borrowed = two.receiver._transport._borrowed
    (mapped,) = borrowed._mapped.values()
    two.sender.close()
    stop = time.monotonic() + 10
    while borrowed.peers or not two.saw(Dropped):
        assert time.monotonic() < stop
        two.seen += two.receiver.poll(time.monotonic())
        time.sleep(0.01)
    assert len(mapped._memory) == 0


@pytest.mark.parametrize(
    "ref",
    [
        b"",
        b"short",
        Ref(0, 0, 1280).pack(),
        Ref(0, 4096, 1 << 40).pack(),
        Ref(0, 4096 + 16 * BLOCK, 8).pack(),
        Ref(0, 4100, 64).pack(),
        Ref(0, 4096, 0).pack(),
        Ref(0, 4096, BLOCK + 8).pack(),
    ],
)
def test_a_reference_out_of_the_lent_memory_is_no_body(pair: Callable[..., Pair], ref: bytes) -> None:
    two = pair()
    on_its_way(two)
    two.until(lambda: two.receiver.counts.frames, sends=False)
    shared = two.dialer._wires[b"shm"]
    shared._dealers.send(Peer(two.peer.replace(b"shm", b"ipc", 1)), (b"head", b"device", ref))
    two.until(lambda: two.receiver.counts.malformed, sends=False)
    assert two.receiver.counts.frames == 1
    two.until(lambda: two.saw(Done))
    assert two.whole()


class NoBlocks:
    offer, count, size = b"", 3, 100

    def read(self, block: int, slots: object, layers: slice) -> None:
        pass

    def done(self, block: int) -> bool:
        return True

    def checksum(self, block: int) -> int:
        return 0

    def offset(self, block: int) -> int:
        return 100 * block


def test_a_block_is_free_or_read_into_or_the_readers() -> None:
    lent = Lent(NoBlocks())
    copies = [lent.begin(np.arange(1), slice(0, 1), 10) for _ in range(3)]
    assert lent.begin(np.arange(1), slice(0, 1), 10) is None
    copies[0].sent()
    copies[0].drop()
    copies[1].drop()
    copies[1].drop()
    assert lent.used == 2
    lent.took(NUMBER.pack(2) + NUMBER.pack(1) + NUMBER.pack(99) + b"odd")  # none of them was sent
    assert lent.used == 2
    lent.took(NUMBER.pack(0) + NUMBER.pack(0))
    assert lent.used == 1
    assert sorted(lent._free) == [0, 1]


def test_a_payload_on_a_device_is_refused() -> None:
    from kv_transfer import wire

    class Body:
        def __len__(self) -> int:
            return 4

        def checksum(self) -> int:
            return 7

    commit = wire.Commit(wire.TransferId("0" * 32), "e", 1, 1, 1, 7)
    with pytest.raises(RemoteProtocolError, match="device"):
        wire.decode(wire.encode(commit, Body()), Body())
