"""KV between pages and slabs: what the handoff does before and behind the wire, as it is and as 8 bits.

A pool of twice the tokens that move, in pages taken in random order; 32 layers, 8 kv heads of 128 in bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.gpu.case import Case, Run, Target, Tune, World, relative_error
from kernels.kv_pages import copy_pages_triton, gather_triton, scatter_triton
from kernels.kv_wire import (
    dequantise_torch,
    gather_quantised_triton,
    quantise_torch,
    scatter_quantised_triton,
)

TARGET = Target("ceiling", 0.8)
TOLERANCE = {torch.int8: 1e-2, torch.float8_e4m3fn: 4e-2}  # of numbers against their codes
NAMES = {torch.int8: "int8", torch.float8_e4m3fn: "fp8"}
MOVE_USES = [{"BYTES": b << 10, "num_warps": w} for b in (4, 8, 16, 32) for w in (2, 4, 8)]
CODE_USES = [{"TILE": t, "num_warps": w} for t in (1024, 2048, 4096, 8192) for w in (2, 4, 8)]


def cases(world: World) -> Iterator[Case]:
    for tokens in (9,) if world.tiny else (2048, 256):
        for page_size in (4,) if world.tiny else (16, 64):
            pool = Pool(world, tokens, page_size)
            yield pool.gather()
            yield pool.scatter()
            if page_size != 64:
                for code in TOLERANCE:
                    yield pool.gather_quantised(code)
                    yield pool.scatter_quantised(code)
                yield pool.copy()
            del pool


class Pool:
    def __init__(self, world: World, tokens: int, page_size: int) -> None:
        self._layers, heads, dim = (2, 3, 20) if world.tiny else (32, 8, 128)
        pages = 2 * -(-tokens // page_size)
        shape = (self._layers, 2, pages, page_size, heads, dim)
        self._kv = torch.randn(shape, dtype=torch.bfloat16, device=world.device)
        # Launches move one half of the pages and the other in turn; copies go from the first to the second.
        self._halves = order = torch.randperm(pages, device=world.device).view(2, -1)
        within = torch.arange(page_size, device=world.device)
        self._slots = [(half[:, None] * page_size + within).flatten()[:tokens] for half in order]
        self._slab = torch.empty(*shape[:2], tokens, heads, dim, dtype=torch.bfloat16, device=world.device)
        self._numbers, self._shape = self._slab.numel(), f"{tokens} tokens, page_size {page_size}"
        self._width, self._dim = heads * dim * 2, dim
        self._page_bytes = self._width * page_size
        self._tiny, self._large = world.tiny, tokens > 1000

    def gather(self) -> Case:
        def peer(slots: torch.Tensor) -> torch.Tensor:
            return self._flat().index_select(2, slots)

        def wrong() -> float:
            self._slab.fill_(float("nan"))
            gather_triton(self._kv, self._slots[0], out=self._slab)
            return relative_error(self._slab, peer(self._slots[0]))

        runs = self._both(partial(gather_triton, self._kv, out=self._slab))
        return self._move("gather", runs, wrong, {"torch index_select": self._both(peer)})

    def scatter(self) -> Case:
        def peer(slots: torch.Tensor) -> torch.Tensor:
            return self._flat().index_copy_(2, slots, self._slab)

        def wrong() -> float:
            self._slab.normal_()
            peer(self._slots[0])
            want = self._kv.clone()
            self._flat().index_fill_(2, self._slots[0], float("nan"))
            scatter_triton(self._kv, self._slots[0], self._slab)
            return relative_error(self._kv, want)

        runs = self._both(lambda slots: scatter_triton(self._kv, slots, self._slab))
        return self._move("scatter", runs, wrong, {"torch index_copy_": self._both(peer)})

    def gather_quantised(self, code: torch.dtype) -> Case:
        def peer(slots: torch.Tensor) -> object:
            return quantise_torch(self._flat().index_select(2, slots), code)

        def wrong() -> float:
            for x in quantise_torch(self._slab, code):
                x.view(torch.uint8).fill_(0x7F)  # freed: where the next results of these sizes are put
            del x
            codes, scales = gather_quantised_triton(self._kv, self._slots[0], code)
            want = self._flat().index_select(2, self._slots[0])
            return relative_error(dequantise_torch(codes, scales, torch.float32), want)

        runs = self._both(lambda slots: gather_quantised_triton(self._kv, slots, code))
        return self._coded("gather", code, runs, wrong, {"torch eager": self._both(peer)})

    def scatter_quantised(self, code: torch.dtype) -> Case:
        codes, scales = quantise_torch(self._slab.normal_(), code)

        def peer(slots: torch.Tensor) -> torch.Tensor:
            return self._flat().index_copy_(2, slots, dequantise_torch(codes, scales, torch.bfloat16))

        def wrong() -> float:
            want = dequantise_torch(codes.double(), scales.double(), torch.float64)
            self._flat().index_fill_(2, self._slots[0], float("nan"))
            scatter_quantised_triton(self._kv, self._slots[0], codes, scales)
            return relative_error(self._flat().index_select(2, self._slots[0]), want)

        runs = self._both(lambda slots: scatter_quantised_triton(self._kv, slots, codes, scales))
        return self._coded("scatter", code, runs, wrong, {"torch eager": self._both(peer)})

    def copy(self) -> Case:
        def peer() -> torch.Tensor:
            return self._kv.index_copy_(2, self._halves[1], self._kv.index_select(2, self._halves[0]))

        def wrong() -> float:
            self._kv.nan_to_num_(0.0)
            want = self._kv.index_select(2, self._halves[0])
            self._kv.index_fill_(2, self._halves[1], float("nan"))
            copy_pages_triton(self._kv, self._halves[0], self._halves[1])
            return relative_error(self._kv.index_select(2, self._halves[1]), want)

        runs = [lambda: copy_pages_triton(self._kv, self._halves[0], self._halves[1])]
        return self._move("copy_pages", runs, wrong, {"torch index_copy_": [peer]}, self._page_bytes)

    def _flat(self) -> torch.Tensor:
        return self._kv.view(*self._kv.shape[:2], -1, *self._kv.shape[4:])

    def _both(self, run: Callable[[torch.Tensor], object]) -> list[Run]:
        return [partial(run, slots) for slots in self._slots]

    def _move(
        self,
        name: str,
        runs: list[Run],
        wrong: Callable[[], float],
        peers: dict[str, list[Run]],
        width: int = 0,
    ) -> Case:
        tune = Tune("move_pages", {"bytes": width or self._width}, MOVE_USES)
        return self._case(name, runs, wrong, peers, 0.0, 4 * self._numbers, 0, tune)

    def _coded(
        self,
        name: str,
        code: torch.dtype,
        runs: list[Run],
        wrong: Callable[[], float],
        peers: dict[str, list[Run]],
    ) -> Case:
        nbytes = 3 * self._numbers + 4 * self._numbers // self._dim
        tune = Tune("kv_wire", {"D": self._dim}, CODE_USES)
        name = f"{name}_{NAMES[code]}"
        return self._case(name, runs, wrong, peers, TOLERANCE[code], nbytes, 4 * self._numbers, tune)

    def _case(
        self, name: str, runs: list[Run], wrong: Callable[[], float], peers: dict[str, list[Run]],
        tolerance: float, nbytes: int, flops: int, tune: Tune,
    ) -> Case:  # fmt: skip
        return Case(
            kernel=name,
            shape=self._shape,
            runs=runs,
            wrong=wrong,
            tolerance=tolerance,
            nbytes=nbytes,
            flops=flops,
            peers=peers,
            target=TARGET,
            tune=tune if self._large or self._tiny else None,
        )
