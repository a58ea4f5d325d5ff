"""What lies between a decoder's products: norms with their sums, rotation with its store, gate, embedding.

All are bounded by the bytes they move. At few rows a launch's own time is all there is, and is only told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.gpu.case import Case, Run, Target, Tune, World, relative_error
from kernels.activation import MANY, silu_mul_torch, silu_mul_triton
from kernels.embedding import embed_triton
from kernels.kv_wire import dequantise_torch
from kernels.norm import add_rms_norm_triton
from kernels.rope import rotate_torch
from kernels.rope_store import rope_store_triton

BF16, EPS, PAGE = torch.bfloat16, 1e-6, 16
Inputs = tuple[Any, ...]


class Model(NamedTuple):
    name: str
    hidden: int
    inner: int
    heads: tuple[int, int]
    dim: int
    vocab: int
    qk_norm: bool


LLAMA = Model("Llama-3-8B", 4096, 14336, (32, 8), 128, 128256, False)
QWEN = Model("Qwen3-0.6B", 1024, 3072, (16, 8), 128, 151936, True)
TINY = Model("tiny", 72, 40, (3, 1), 20, 30, True)


def cases(world: World) -> Iterator[Case]:
    for tokens in (5,) if world.tiny else (8192, 256, 16):
        for model in (TINY,) if world.tiny else (LLAMA, QWEN):
            for of in add_rms_norm, rope_store, silu_mul, embed:
                yield of(world, model, tokens)
            if model.name != "Qwen3-0.6B" and tokens != 256:
                yield rope_store(world, model, tokens, torch.int8)


def add_rms_norm(world: World, model: Model, tokens: int) -> Case:
    hidden = model.hidden
    nbytes = 2 * (4 * tokens + 1) * hidden
    weight = normal(world, hidden)

    def wrong(x: torch.Tensor, residual: torch.Tensor) -> float:
        poison(x, x)
        normed, summed = add_rms_norm_triton(x, residual, weight, EPS)
        wide = (x + residual).double()
        want = wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight.double()
        return max_or_nan(relative_error(normed, want), relative_error(summed, wide))

    def eager(x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        summed = residual + x
        return F.rms_norm(summed, (hidden,), weight, EPS), summed

    uses = [
        {"ROWS": r, "num_warps": w} for r in (1, 2, 4) for w in (1, 2, 4, 8, 16) if r * hidden // w <= 2048
    ]
    return case(
        world, "add_rms_norm", model, tokens, nbytes, 6 * tokens * hidden, wrong, eager,
        ours=lambda x, residual: add_rms_norm_triton(x, residual, weight, EPS),
        make=lambda: (normal(world, tokens, hidden), normal(world, tokens, hidden)),
        tune=Tune("rms_norm", {"H": hidden}, uses),
    )  # fmt: skip


def silu_mul(world: World, model: Model, tokens: int) -> Case:
    def wrong(gate_up: torch.Tensor) -> float:
        poison(gate_up[:, : model.inner])
        gate, up = gate_up.double().chunk(2, 1)
        return relative_error(silu_mul_triton(gate_up), gate * torch.sigmoid(gate) * up)

    many = int(tokens >= MANY)
    uses = [{"BLOCK": b, "num_warps": w} for b in (512, 1024, 2048, 4096) for w in (1, 2, 4, 8)]
    return case(
        world, "silu_mul", model, tokens, 6 * tokens * model.inner, 5 * tokens * model.inner, wrong,
        silu_mul_torch, ours=silu_mul_triton, make=lambda: (normal(world, tokens, 2 * model.inner),),
        tune=Tune("silu_mul", {"I": model.inner, "many": many}, uses),
    )  # fmt: skip


def embed(world: World, model: Model, tokens: int) -> Case:
    table = normal(world, model.vocab, model.hidden)
    sampled = torch.randint(model.vocab, (3,), device=world.device)

    def wrong(ids: torch.Tensor) -> float:
        ids = ids.clone()
        ids[:3] = torch.tensor([-1, -3, -2], device=world.device)
        poison(table[:tokens])
        got, known = embed_triton(table, ids, sampled), torch.cat((sampled[[0, 2, 1]], ids[3:]))
        return relative_error(got, table[known])

    nbytes = tokens * (4 * model.hidden + 8)
    uses = [{"BLOCK": b, "num_warps": w} for b in (512, 1024, 2048, 4096) for w in (1, 2, 4, 8)]
    return case(
        world, "embed", model, tokens, nbytes, 0, wrong, lambda ids: table.index_select(0, ids),
        ours=lambda ids: embed_triton(table, ids, sampled),
        make=lambda: (torch.randperm(model.vocab, device=world.device)[:tokens],),
        tune=Tune("embed", {"H": model.hidden}, uses), tolerance=0.0,
    )  # fmt: skip


def rope_store(world: World, model: Model, tokens: int, code: torch.dtype | None = None) -> Case:
    """With ``code``: K and V as codes of 8 bits under scales of their own."""
    (queries, kv_heads), dim, device = model.heads, model.dim, world.device
    angle = torch.rand(tokens, dim // 2, device=device) * 6
    table, positions = (angle.cos(), angle.sin()), torch.arange(tokens, device=device)
    norms = [normal(world, dim) if model.qk_norm else None for _ in "qk"]
    pages = math.ceil(tokens / PAGE)
    order = torch.randperm(pages, device=device)
    slots = (order[:, None] * PAGE + torch.arange(PAGE, device=device)).flatten()[:tokens]

    def ours(qkv: torch.Tensor, kv: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
        return rope_store_triton(qkv, model.heads, *norms, EPS, *table, positions, kv, slots, scales)

    def steps(qkv: torch.Tensor, wide: bool) -> Sequence[torch.Tensor]:
        q, k, v = qkv.view(tokens, -1, dim).split([queries, kv_heads, kv_heads], 1)
        if norms[0] is not None and norms[1] is not None:
            weights = [n.double() if wide else n for n in norms if n is not None]
            q, k = (F.rms_norm(x, (dim,), w, EPS) for x, w in zip((q, k), weights, strict=True))
        if wide:
            c, s = (x.double()[positions, None] for x in table)
            q, k = (
                torch.cat((a * c - b * s, b * c + a * s), -1) for a, b in (q.chunk(2, -1), k.chunk(2, -1))
            )
            return q, k, v
        c, s = table[0][positions], table[1][positions]
        return rotate_torch(q, c, s), rotate_torch(k, c, s), v

    def eager(qkv: torch.Tensor, kv: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
        q, k, v = steps(qkv, False)
        kv[0].view(-1, kv_heads, dim).index_copy_(0, slots, k)
        kv[1].view(-1, kv_heads, dim).index_copy_(0, slots, v)
        return q

    def make() -> Inputs:
        shape = (2, pages, PAGE, kv_heads)
        kv = torch.empty(*shape, dim, dtype=code or BF16, device=device)
        qkv = normal(world, tokens, (queries + 2 * kv_heads) * dim)
        return qkv, kv, None if code is None else torch.full(shape, float("nan"), device=device)

    def wrong(qkv: torch.Tensor, kv: torch.Tensor, scales: torch.Tensor | None) -> float:
        kv.view(torch.uint8).fill_(0xFF)
        poison(qkv[:, : queries * dim])
        want = steps(qkv.double(), True)
        stored, q = kv, ours(qkv, kv, scales)
        if scales is not None:
            stored = dequantise_torch(kv, scales, torch.float32)
        got = q, *stored.view(2, -1, kv_heads, dim)[:, slots]
        return max_or_nan(*map(relative_error, got, want))

    rows = tokens * (queries + 2 * kv_heads)
    written = rows * dim * 2 if code is None else tokens * (queries * dim * 2 + 2 * kv_heads * (dim + 4))
    nbytes = rows * dim * 2 + written + tokens * (dim * 4 + 16)
    uses = [{"G": g, "num_warps": w} for g in (4, 8, 16, 32) for w in (1, 2, 4, 8)]
    shape = {"heads": queries, "kv_heads": kv_heads, "D": dim}
    return case(
        world, "rope_store" if code is None else "rope_store_int8", model, tokens, nbytes, 10 * rows * dim,
        wrong, eager if code is None else None, ours=ours, make=make, tune=Tune("rope_store", shape, uses),
        tolerance=1e-2 if code is None else 1.5e-2,  # half a step of 127 of the largest number, and bf16
    )  # fmt: skip


def case(
    world: World, kernel: str, model: Model, tokens: int, nbytes: int, flops: int,
    wrong: Callable[..., float], eager: Callable[..., object] | None, *, ours: Callable[..., object],
    make: Callable[[], Inputs], tune: Tune, tolerance: float = 1e-2,
) -> Case:  # fmt: skip
    """``make`` gives the inputs of one launch, of which each peer gets the same ones."""
    sets = [make() for _ in range(2 if world.tiny else min(32, math.ceil(120e6 / nbytes)))]
    full, peers = tokens == 8192, {}
    if eager is not None:
        peers["torch eager"] = in_turn(eager, sets)
        if full and model is LLAMA and kernel != "embed":
            peers["torch.compile"] = in_turn(torch.compile(eager, dynamic=False), sets)
    return Case(
        kernel=kernel,
        shape=f"{model.name} T={tokens}",
        runs=in_turn(ours, sets),
        wrong=lambda: wrong(*sets[0]),
        tolerance=tolerance,
        nbytes=nbytes,
        flops=flops,
        peers=peers,
        target=Target("ceiling", 0.85) if full else None,
        tune=tune if full or tokens == 5 else None,
    )


def in_turn(run: Callable[..., object], sets: Sequence[Inputs]) -> list[Run]:
    return [lambda inputs=inputs: run(*inputs) for inputs in sets]  # type: ignore[misc]


def normal(world: World, *shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=BF16, device=world.device)


def poison(*like: torch.Tensor) -> None:
    """Leave NaN in freed memory that the next results of these shapes are given."""
    _ = [torch.full(x.shape, float("nan"), dtype=x.dtype, device=x.device) for x in like]


def max_or_nan(*errors: float) -> float:
    return math.nan if any(math.isnan(e) for e in errors) else max(errors)
