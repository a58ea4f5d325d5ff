"""The handoff's way through pinned memory: copies alone, with the host's part, and beside computation.

Copies of 2, 8 and 32 MiB go through the staging path: out of pages (gather, copy to the host), and into them
(copy to the device, scatter) from where a frame landed in pinned memory. The host's part on top is one copy
into the wire's memory, or from it. The last figures are of a prompt of 2,048 tokens of Llama-3-8B, in 8
groups of layers that leave while the next ones are computed: products of the model's size stand for those.

From device to device: what the two devices do for a frame, each alone, beside a copy of as many bytes, with
both ends' memory in this process; and then all of it between two processes, beside the way through the host.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.gpu import handoff_far
from benchmarks.gpu.case import Case, Reading, Target, World, relative_error
from kernels.slab_checksum import checksum_into
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging import BUFFERS_IN, BUFFERS_OUT, PinnedPages
from pagewire.engine.staging_borrowed import BroughtSlab
from pagewire.engine.staging_lane import CudaLane, Fence, Lane, PlainLane, Queue
from pagewire.engine.staging_out import PinnedCopy
from pagewire.engine.staging_share import HEAD_BYTES, Shared
from pagewire.layout import KVLayout

MIB = 1 << 20
LLAMA = KVLayout(layers=32, kv_heads=8, head_dim=128, dtype="bfloat16", model="llama-3-8b")
LAYER_WEIGHTS = (4096, 53248)  # as many numbers as a layer of it has
TINY = KVLayout(layers=4, kv_heads=1, head_dim=64, dtype="bfloat16", model="tiny")
FRAME = 2 * MIB  # as a receiver asks for


class Frame(NamedTuple):
    slots: np.ndarray
    layers: slice


class Shape(NamedTuple):
    """KV of ``tokens`` tokens, in ``groups`` of layers, in frames of ``frame`` bytes."""

    layout: KVLayout
    tokens: int
    groups: int
    frame: int

    @property
    def nbytes(self) -> int:
        return self.tokens * self.layout.token_bytes

    def frames(self) -> list[list[Frame]]:
        """By group. The pages of a prompt lie anywhere."""
        size = self.layout.layers // self.groups
        each = self.frame // (self.layout.token_bytes // self.layout.layers * size)
        pages = np.random.default_rng(0).permutation(self.tokens // 16)
        slots = (pages[:, None] * 16 + np.arange(16)).ravel()
        return [
            [Frame(slots[at : at + each], slice(first, first + size)) for at in range(0, self.tokens, each)]
            for first in range(0, self.layout.layers, size)
        ]


class Counted:
    """A lane that counts what the device is asked to do."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self.calls = lane, 0

    def run(self, queue: Queue, operation: Callable[[], object]) -> None:
        self.calls += 1
        self._lane.run(queue, operation)

    def fence(self, name: str) -> CountedFence:
        return CountedFence(self, self._lane.fence(name))

    def host(self, size: int) -> torch.Tensor:
        return self._lane.host(size)

    def device(self, size: int) -> torch.Tensor:
        return self._lane.device(size)


class CountedFence:
    def __init__(self, lane: Counted, fence: Fence) -> None:
        self._lane, self._fence = lane, fence

    def set(self, queue: Queue) -> None:
        self._lane.calls += 1
        self._fence.set(queue)

    def hold(self, queue: Queue) -> None:
        self._lane.calls += 1
        self._fence.hold(queue)

    def passed(self) -> bool:
        self._lane.calls += 1
        return self._fence.passed()

    def wait(self) -> None:
        self._lane.calls += 1
        self._fence.wait()


class Bench:
    """A node's pages full of noise, the staging path, and a wire's memory, which is used round and round."""

    def __init__(self, world: World, shape: Shape, lane: Lane | None = None) -> None:
        self.world, self.shape, self.frames = world, shape, shape.frames()
        self.cache = KVCache(shape.layout, shape.tokens // 16, 16, world.device)
        self.cache.pages.view(torch.int16).random_(0, 0x3F00)
        size = max(shape.frame, world.pick(8 * MIB, shape.frame))
        self.pages = PinnedPages(self.cache, lane, out=BUFFERS_OUT, into=BUFFERS_IN, size=size)
        self.wire = [memoryview(bytearray(shape.frame)) for _ in range(8)]
        self.pages.warm_up()

    @property
    def every(self) -> list[Frame]:
        return [frame for group in self.frames for frame in group]

    def size(self, frame: Frame) -> int:
        layout = self.shape.layout
        return (
            len(frame.slots) * len(range(layout.layers)[frame.layers]) * (layout.token_bytes // layout.layers)
        )

    def room(self, number: int, frame: Frame) -> memoryview:
        return self.wire[number % len(self.wire)][: self.size(frame)]

    def out(self, taken: bool) -> None:
        """All frames to the host; ``taken``: and into the wire's memory."""
        under: deque[tuple[Frame, PinnedCopy]] = deque()
        number, left = 0, deque(self.every)
        while left or under:
            while left and (copy := self.pages.begin(*left[0])) is not None:
                under.append((left.popleft(), copy))
            while under and under[0][1].ready():
                frame, copy = under.popleft()
                if taken:
                    copy.take(self.room(number, frame))
                copy.drop()
                number += 1

    def into(self, landed: bool) -> None:
        """All frames to the pages: from where they ``landed``, or from the wire's memory."""
        for number, frame in enumerate(self.every):
            size = self.size(frame)
            body = self.pages.landing(size) if landed else self.room(number, frame)
            self.pages.write(*frame, body)

    def wrong(self) -> float:
        """Takes each frame out, spoils its pages and puts it back."""
        pages = self.cache.pages.view(torch.int16).random_(0, 0x3F00)
        before = pages.clone()
        for number, frame in enumerate(self.every):
            self.pages.mark().wait()
            copy, body = self.pages.begin(*frame), self.room(number, frame)
            assert copy is not None
            copy.take(body)
            pages[frame.layers].flatten(2, 3)[:, :, self.index(frame)] = 0x7F7F
            landed = self.pages.landing(len(body))
            if number % 2:
                landed[:] = body
            self.pages.write(*frame, landed if number % 2 else body)
        return relative_error(pages, before)

    def index(self, frame: Frame) -> torch.Tensor:
        return torch.from_numpy(frame.slots).to(self.world.device)


def cases(world: World) -> Iterator[Case | Reading]:
    layout = TINY if world.tiny else LLAMA
    for mib in (2, 8, 32):
        shape = Shape(layout, world.pick(2048, 64), world.pick(8, 2), world.pick(mib * MIB, mib * 2048))
        yield from _copies(Bench(world, shape), f"{shape.nbytes // MIB} MiB in frames of {mib} MiB")
    shape = Shape(layout, world.pick(2048, 64), world.pick(8, 2), world.pick(FRAME, 4096))
    yield Reading(
        kernel="handoff, beside computation",
        shape=f"{layout.model}, {shape.tokens} tokens, {shape.groups} groups of layers",
        read=lambda: Prompt(world, shape).read(),
    )
    name = f"{layout.model}, {shape.tokens} tokens, frames of {shape.frame >> 10} KiB"
    yield Reading(
        kernel="handoff, device to device, each end", shape=name, read=lambda: Direct(world, shape).read()
    )
    yield Reading(
        kernel="handoff, device to device, two processes",
        shape=name,
        read=lambda: handoff_far.read(world.device, layout, shape.tokens, shape.frame),
    )


def _copies(bench: Bench, shape: str) -> Iterator[Case]:
    def case(kernel: str, run: Callable[[], None], moves: str, target: Target | None) -> Case:
        return Case(
            kernel=kernel,
            shape=shape,
            runs=[run],
            wrong=bench.wrong,
            tolerance=0.0,
            nbytes=bench.shape.nbytes,
            flops=0,
            moves="d2h" if moves == "d2h" else "h2d",
            target=target,
            graph=False,
        )

    copies = Target("ceiling", 0.9)
    yield case("handoff out, copies", lambda: bench.out(taken=False), "d2h", copies)
    yield case("handoff out, taken", lambda: bench.out(taken=True), "d2h", None)
    yield case("handoff in, landed", lambda: bench.into(landed=True), "h2d", copies)
    yield case("handoff in, from the wire", lambda: bench.into(landed=False), "h2d", None)


class Prompt:
    """Computes a prompt's layers, and hands their KV over meanwhile as a prefill node's loop does."""

    def __init__(self, world: World, shape: Shape) -> None:
        self.device = world.device
        self.lane = Counted(CudaLane(world.device) if world.device.type == "cuda" else PlainLane())
        self.bench, self.shape = Bench(world, shape, self.lane), shape
        rows, columns = (64, 64) if world.tiny else LAYER_WEIGHTS
        dtype = getattr(torch, shape.layout.dtype)
        self.x = torch.randn(shape.tokens, rows, device=world.device, dtype=dtype)
        self.w = torch.randn(rows, columns, device=world.device, dtype=dtype)
        self.y = torch.empty(shape.tokens, columns, device=world.device, dtype=dtype)

    def read(self) -> Mapping[str, float | int | str]:
        compute = self.best(lambda: self.go(computes=True, hands_over=False))
        alone = self.best(lambda: self.go(computes=False, hands_over=True))
        calls = self.lane.calls
        self.go(computes=False, hands_over=True)
        calls = self.lane.calls - calls
        both = self.best(lambda: self.go(computes=True, hands_over=True))
        frames = len(self.bench.every)
        return {
            "compute_ms": compute * 1e3,
            "handoff_alone_ms": alone * 1e3,
            "both_ms": both * 1e3,
            "exposed_ms": (both - compute) * 1e3,
            "MiB": self.shape.nbytes / MIB,
            "frames": frames,
            "device_calls_a_frame": calls / frames,
        }

    def go(self, *, computes: bool, hands_over: bool) -> None:
        """The host gives all groups to the device, and then sends what is computed, frame by frame."""
        left: deque[tuple[Frame, Fence]] = deque()
        for group in self.bench.frames:
            if computes:
                for _ in range(self.shape.layout.layers // self.shape.groups):
                    torch.mm(self.x, self.w, out=self.y)
            if hands_over:
                mark = self.bench.pages.mark()
                left += [(frame, mark) for frame in group]
        self.send(left)
        self.finish()

    def send(self, left: deque[tuple[Frame, Fence]]) -> None:
        under: deque[tuple[Frame, PinnedCopy]] = deque()
        number = 0
        while left or under:
            computed = bool(left) and left[0][1].passed()
            if computed and (copy := self.bench.pages.begin(*left[0][0])) is not None:
                under.append((left.popleft()[0], copy))
            if under and under[0][1].ready():
                frame, copy = under.popleft()
                copy.take(self.bench.room(number, frame))
                number += 1

    def best(self, run: Callable[[], None]) -> float:
        """Seconds: the median of five, each begun on an idle device."""
        run()
        taken = []
        for _ in range(5):
            self.finish()
            began = time.perf_counter()
            run()
            taken.append(time.perf_counter() - began)
        return sorted(taken)[2]

    def finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Own:
    """What is lent and what is mapped is the same memory, of this process: CUDA IPC maps no memory twice."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def lend(self, size: int) -> Shared:
        self.memory = torch.zeros(HEAD_BYTES + size, dtype=torch.uint8, device=self._device)
        return Shared(self.memory[HEAD_BYTES:], b"")

    def map(self, offer: bytes) -> torch.Tensor:
        return self.memory


class Direct:
    """Each end's part of the way from device to device, with what its host does for it."""

    AHEAD = 8  # frames that are begun before the first of them is waited for

    def __init__(self, world: World, shape: Shape) -> None:
        self.world, self.shape = world, shape
        self.frames = [frame for group in shape.frames() for frame in group]
        cache = KVCache(shape.layout, shape.tokens // 16, 16, world.device)
        cache.pages.view(torch.int16).random_(0, 0x3F00)
        lane = CudaLane(world.device) if world.device.type == "cuda" else PlainLane()
        self.pages = PinnedPages(cache, lane, Own(world.device), size=shape.frame, block=shape.frame)
        self.pages.warm_up()
        lender, borrower = self.pages.lender(), self.pages.borrower()
        assert lender is not None
        assert borrower is not None
        blocks = lender.lend()
        assert blocks is not None
        self.blocks, self.mapped = blocks, borrower.map(blocks.offer)
        self.sums: list[int] = []

    def read(self) -> Mapping[str, float | int | str]:
        size = self.shape.frame
        slab, other = (torch.empty(size, dtype=torch.uint8, device=self.world.device) for _ in range(2))
        out = torch.empty(1, dtype=torch.int64, device=self.world.device)
        times = {
            "lend": self.best(self.lend),
            "borrow": self.best(self.borrow),
            "checksum": self.best(lambda: self.each(lambda: checksum_into(slab, out))),
            "copy": self.best(lambda: self.each(lambda: other.copy_(slab))),
        }
        figures: dict[str, float | int | str] = {
            f"{name}_GBps": self.shape.nbytes / seconds / 1e9 for name, seconds in times.items()
        }
        return {**figures, "frames": len(self.frames), "frame_us": times["borrow"] / len(self.frames) * 1e6}

    def each(self, run: Callable[[], object]) -> None:
        for _ in self.frames:
            run()

    def lend(self) -> None:
        """Gather and checksum, one block after the other, each used again when it is done."""
        count, sums = self.blocks.count, list[int]()
        for number, frame in enumerate(self.frames):
            if number >= count:
                sums.append(self.sum(number - count))
            self.blocks.read(number % count, *frame)
        for number in range(max(0, len(self.frames) - count), len(self.frames)):
            sums.append(self.sum(number))
        self.sums = sums

    def sum(self, number: int) -> int:
        while not self.blocks.done(number % self.blocks.count):
            pass
        return self.blocks.checksum(number % self.blocks.count)

    def borrow(self) -> None:
        """Copy, checksum and scatter; what lies in the blocks is the same each time."""
        begun: deque[tuple[int, Frame, BroughtSlab]] = deque()
        for number, frame in enumerate(self.frames):
            block = number % self.blocks.count
            slab = self.mapped.bring(self.blocks.offset(block), self.shape.frame)
            begun.append((block, frame, slab))
            if len(begun) == self.AHEAD:
                self.put(*begun.popleft())
        while begun:
            self.put(*begun.popleft())

    def put(self, block: int, frame: Frame, slab: BroughtSlab) -> None:
        if slab.checksum() != self.blocks.checksum(block):
            raise RuntimeError("what was brought is not what was lent")
        self.pages.write(*frame, slab)

    def best(self, run: Callable[[], None]) -> float:
        """Seconds: the median of five, each begun and ended with an idle device."""
        run()
        taken = []
        for _ in range(5):
            self.finish()
            began = time.perf_counter()
            run()
            self.finish()
            taken.append(time.perf_counter() - began)
        return sorted(taken)[2]

    def finish(self) -> None:
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()
