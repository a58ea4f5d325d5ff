"""A device that does what it was given in any order that the fences allow, and the stories told to it.

The host's own memory accesses happen when they are made, as everywhere. What is given to a queue waits
until the device, which ``random`` moves, gets to it. A copy or a kernel is done at once when its turn comes:
whether its bytes were overwritten before, or are read before, shows in what arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch

from kernels.slab_checksum import checksum_numpy
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging import PinnedPages
from pagewire.engine.staging_borrowed import BroughtSlab, MappedBlocks
from pagewire.engine.staging_lane import Queue
from pagewire.engine.staging_out import PinnedCopy
from pagewire.engine.staging_share import HEAD_BYTES, Shared
from pagewire.layout import KVLayout

Use = tuple[str, str]  # a fence's name and what it is used for: "passed", "wait", or a queue that it holds
LAYOUT = KVLayout(layers=3, kv_heads=1, head_dim=4, dtype="float16", model="m")
PAGES, PAGE_SIZE, TOKENS = 3, 4, 5
Part = tuple[np.ndarray, slice]
CELL = LAYOUT.token_bytes // LAYOUT.layers


class Place:
    passed = False


class Device:
    """A ``Lane``. It takes no notice of fences that are used as ``deaf`` says."""

    def __init__(self, random: Random, deaf: Use | None = None, eager: float | None = None) -> None:
        self._random, self.deaf = random, deaf
        self._queues: dict[Queue, deque[Callable[[], object] | Place]] = {queue: deque() for queue in Queue}
        self._held: dict[Queue, deque[tuple[int, Place]]] = {queue: deque() for queue in Queue}
        self._given = dict.fromkeys(Queue, 0)  # operations, since the start
        self._done = dict.fromkeys(Queue, 0)
        self._favoured = random.choice([*Queue, None])  # the queue that is the faster one, if any
        eager = random.choice([0.0, 0.5, 2.0]) if eager is None else eager
        self._eager = eager  # operations between two calls of the host, on average
        self.waits = 0  # for what had not been passed
        self.calls = 0
        self.used: set[Use] = set()

    # --- a Lane ---------------------------------------------------------------------------------------------

    def run(self, queue: Queue, operation: Callable[[], object]) -> None:
        self.calls += 1
        self.give(queue, operation)
        self.work()

    def fence(self, name: str) -> Fence:
        return Fence(self, name)

    def host(self, size: int) -> torch.Tensor:
        return torch.full((size,), 0x55, dtype=torch.uint8)

    device = host

    # --- what fences need -----------------------------------------------------------------------------------

    def give(self, queue: Queue, item: Callable[[], object] | Place) -> None:
        self._queues[queue].append(item)
        self._given[queue] += 1

    def hold(self, queue: Queue, place: Place) -> None:
        self._held[queue].append((self._given[queue], place))

    def hears(self, use: Use) -> bool:
        self.used.add(use)
        return use != self.deaf

    # --- the passing of time --------------------------------------------------------------------------------

    def work(self) -> None:
        """Some operations, or none."""
        while self._random.random() < self._eager / (1 + self._eager) and self.step():
            pass

    def step(self) -> bool:
        """One operation that may be done now; False if there is none."""
        ready = [queue for queue in Queue if self._ready(queue)]
        if not ready:
            return False
        queue = self._favoured if self._favoured in ready and self._random.random() < 0.9 else None
        queue = queue or self._random.choice(ready)
        item = self._queues[queue].popleft()
        self._done[queue] += 1
        if isinstance(item, Place):
            item.passed = True
        else:
            item()
        return True

    def _ready(self, queue: Queue) -> bool:
        held = self._held[queue]
        while held and held[0][1].passed:
            held.popleft()
        return bool(self._queues[queue]) and not (held and held[0][0] <= self._done[queue])

    def until(self, place: Place) -> None:
        while not place.passed:
            assert self.step(), "what is waited for never comes"

    def finish(self) -> None:
        while self.step():
            pass
        assert not any(self._queues.values()), "a queue is held for ever"


class Fence:
    def __init__(self, device: Device, name: str) -> None:
        self._device, self._name = device, name
        self._place: Place | None = None

    def set(self, queue: Queue) -> None:
        self._device.calls += 1
        self._place = Place()
        self._device.give(queue, self._place)
        self._device.work()

    def hold(self, queue: Queue) -> None:
        self._device.calls += 1
        if self._device.hears((self._name, queue.name)) and self._place is not None:
            self._device.hold(queue, self._place)

    def passed(self) -> bool:
        self._device.work()
        return not self._device.hears((self._name, "passed")) or self._place is None or self._place.passed

    def wait(self) -> None:
        self._device.work()
        if self._device.hears((self._name, "wait")) and self._place is not None and not self._place.passed:
            self._device.waits += 1
            self._device.until(self._place)


# --- stories: what a node does, in any order, and what it must find -----------------------------------------


class OneShare:
    """Memory that the other process has: ``lent`` is what it sees of ours, ``theirs`` what we map."""

    def __init__(self) -> None:
        self.lent = torch.empty(0)
        self.theirs = torch.full((HEAD_BYTES + (1 << 14),), 0x55, dtype=torch.uint8)

    def lend(self, size: int) -> Shared:
        self.lent = torch.full((HEAD_BYTES + size,), 0x55, dtype=torch.uint8)
        return Shared(self.lent[HEAD_BYTES:], b"")

    def map(self, offer: bytes) -> torch.Tensor:
        return self.theirs


class World:
    """Pages on the device, and beside them what they would be had all been done at once."""

    def __init__(self, random: Random, deaf: Use | None, indices: int = 2, **sizes: int) -> None:
        self.random, self.device = random, Device(random, deaf)
        self.cache = KVCache(LAYOUT, PAGES, PAGE_SIZE)
        self.shadow = KVCache(LAYOUT, PAGES, PAGE_SIZE)
        most = LAYOUT.layers * TOKENS * CELL
        self.shared = OneShare()
        self.pages = PinnedPages(
            self.cache, self.device, self.shared, size=most, block=most + -most % 8, indices=indices, **sizes
        )

    def part(self, but: Iterable[int] = ()) -> Part:
        """Some slots, none of them of ``but``, and some layers."""
        free = sorted(set(range(PAGES * PAGE_SIZE)) - set(but))
        slots = self.random.sample(free, self.random.randint(1, min(TOKENS, len(free))))
        start = self.random.randint(0, LAYOUT.layers - 1)
        return np.array(slots), slice(start, self.random.randint(start + 1, LAYOUT.layers))

    def bytes(self, slots: np.ndarray, layers: slice) -> bytearray:
        return bytearray(self.random.randbytes(len(slots) * len(range(LAYOUT.layers)[layers]) * CELL))

    def compute(self, slots: np.ndarray, layers: slice) -> bytes:
        """A kernel that writes pages. What it writes."""
        data = bytes(self.bytes(slots, layers))
        self.shadow.write(slots, layers, data)
        self.device.run(Queue.COMPUTE, lambda: self.cache.write(slots, layers, data))
        return data


@dataclass(eq=False)
class Published:
    """KV that is in the pages until it is retracted: so long nobody else writes there."""

    part: Part
    wanted: bytes
    mark: Fence
    copies: list[PinnedCopy] = field(default_factory=list)


def pages_go_out(random: Random, deaf: Use | None = None, turns: int = 40) -> Device:
    """KV is computed, begun to be read when it is, taken and retracted; others write next to it, and there as
    soon as it is retracted.
    """
    world, kept = World(random, deaf, out=3, into=1), list[Published]()
    for _ in range(turns):
        but = [slot for each in kept for slot in each.part[0]]
        each = random.choice(kept) if kept else None
        match random.choice(["compute", "publish", "publish", *["begin"] * 4, "take", "retract"]):
            case "compute" if len(but) < PAGES * PAGE_SIZE:
                world.compute(*world.part(but))
            case "publish" if len(but) < PAGES * PAGE_SIZE:
                part = world.part(but)
                kept.append(Published(part, world.compute(*part), world.pages.mark()))
            case "begin" if each is not None and each.mark.passed():
                if (copy := world.pages.begin(*each.part)) is not None:
                    each.copies.append(copy)
            case "take" if each is not None and each.copies:
                copy, out = each.copies.pop(), bytearray(len(each.wanted))
                if copy.ready() or random.random() < 0.5:
                    copy.take(memoryview(out))
                    assert out == each.wanted, "other bytes were read"
                else:
                    each.copies.append(copy)
            case "retract" if each is not None:
                kept.remove(each)
                for copy in each.copies:
                    copy.drop()
                world.compute(*each.part)
    return world.device


def pages_come_in(random: Random, deaf: Use | None = None, turns: int = 30) -> Device:
    """Frames arrive in memory of the wire's own, which is used again at once, or where they can be sent on
    from; some are found wrong and not written. Kernels read and write the pages.
    """
    world, seen = World(random, deaf, out=1, into=2), []
    for _ in range(turns):
        slots, layers = world.part()
        data = world.bytes(slots, layers)
        match random.choice(["compute", "read", "write", "write", "land", "land"]):
            case "compute":
                world.compute(slots, layers)
            case "read":
                wanted = bytes(world.shadow.read(slots, layers))
                world.device.run(
                    Queue.COMPUTE,
                    lambda p=(slots, layers), w=wanted: seen.append(bytes(world.cache.read(*p)) == w),
                )
            case "write":
                world.shadow.write(slots, layers, data)
                world.pages.write(slots, layers, data)
                data[:] = bytes(len(data))
            case "land":
                body = world.pages.landing(len(data))
                body[:] = data
                if random.random() < 0.8:
                    world.shadow.write(slots, layers, data)
                    world.pages.write(slots, layers, body)
    world.device.finish()
    assert all(seen), "a kernel saw other bytes"
    every = np.arange(PAGES * PAGE_SIZE)
    assert world.cache.read(every) == world.shadow.read(every), "other bytes were written"
    return world.device


def slabs_are_lent(random: Random, deaf: Use | None = None, turns: int = 40) -> Device:
    """As ``pages_go_out``, but the slabs stay in blocks that another process reads when it is told to. Then
    the block is free again.
    """
    world, kept = World(random, deaf, indices=1, out=1, into=1, blocks_out=3), list[Published]()
    lender = world.pages.lender()
    assert lender is not None
    blocks = lender.lend()
    assert blocks is not None
    free, read = deque(range(3)), dict[int, Published]()
    for _ in range(turns):
        but = [slot for each in kept for slot in each.part[0]]
        each = random.choice(kept) if kept else None
        does = ["compute", "publish", "publish", *["begin"] * 4, "send", "send", "drop", "retract"]
        match random.choice(does):
            case "compute" if len(but) < PAGES * PAGE_SIZE:
                world.compute(*world.part(but))
            case "publish" if len(but) < PAGES * PAGE_SIZE:
                part = world.part(but)
                kept.append(Published(part, world.compute(*part), world.pages.mark()))
            case "begin" if each is not None and free and blocks.done(free[0]) and each.mark.passed():
                read[block := free.popleft()] = each
                blocks.read(block, *each.part)
            case "send" if read and blocks.done(block := random.choice(list(read))):
                wanted, at = read.pop(block).wanted, blocks.offset(block)
                assert world.shared.lent[at : at + len(wanted)].numpy().tobytes() == wanted, "other bytes"
                assert blocks.checksum(block) == checksum_numpy(wanted), "another checksum"
                free.append(block)
            case "drop" if read:
                read.pop(block := random.choice(list(read)))
                free.append(block)
            case "retract" if each is not None:
                kept.remove(each)
                for block in [block for block, of in read.items() if of is each]:
                    del read[block]
                    free.append(block)
                world.compute(*each.part)
    return world.device


def slabs_are_borrowed(random: Random, deaf: Use | None = None, turns: int = 30) -> Device:
    """Slabs are brought from memory that is another's again as soon as they have been waited for; some are
    found wrong, or are not even looked at. Kernels read and write the pages.
    """
    world, seen = World(random, deaf, indices=1, out=1, into=1, blocks_in=2), []
    borrower = world.pages.borrower()
    assert borrower is not None
    mapped: MappedBlocks = borrower.map(b"")
    begun: deque[tuple[BroughtSlab, Part, bytes, slice]] = deque()
    brought = 0
    for _ in range(turns):
        slots, layers = world.part()
        match random.choice(["compute", "read", *["bring"] * 4, *["write"] * 3, "close"]):
            case "compute":
                world.compute(slots, layers)
            case "read":
                wanted = bytes(world.shadow.read(slots, layers))
                world.device.run(
                    Queue.COMPUTE,
                    lambda p=(slots, layers), w=wanted: seen.append(bytes(world.cache.read(*p)) == w),
                )
            case "bring" if len(begun) < 2:
                data, start = bytes(world.bytes(slots, layers)), HEAD_BYTES + 4096 * (brought % 2)
                place, brought = slice(start, start + len(data)), brought + 1
                world.shared.theirs[place] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                begun.append((mapped.bring(start, len(data)), (slots, layers), data, place))
            case "write" if begun:
                slab, part, data, place = begun.popleft()
                if random.random() < 0.8:
                    assert slab.checksum() == checksum_numpy(data), "another checksum"
                    world.shadow.write(*part, data)
                    world.pages.write(*part, slab)
                slab.wait()
                world.shared.theirs[place] = 0x55
            case "close" if not begun:
                mapped.close()
                world.shared.theirs[:] = 0x55  # it is nobody's
                mapped = borrower.map(b"")
    world.device.finish()
    assert all(seen), "a kernel saw other bytes"
    every = np.arange(PAGES * PAGE_SIZE)
    assert world.cache.read(every) == world.shadow.read(every), "other bytes were written"
    return world.device
