"""Attention over pages of 16 tokens in a shuffled pool: prompts, by the matrix rate, and decode steps, by the
bytes of their KV.

Peers of a prompt are torch's fused kernels over keys and values that lie contiguous, without pages, and our
own way to them, which gathers the pages first. Rows are compared with a reference in float64: some of them,
of every sequence the first and the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from benchmarks.gpu.case import Case, Run, Target, Tune, World, relative_error
from kernels import attention_decode, attention_prefill, attention_sdpa, attention_triton, tuned
from kernels.attention import AttentionMeta, KVScales, paged_attention_reference

BF16, PAGE = torch.bfloat16, 16


class Model(NamedTuple):
    name: str
    heads: int
    kv_heads: int
    dim: int


LLAMA = Model("Llama-3-8B", 32, 8, 128)
QWEN = Model("Qwen2.5-7B", 28, 4, 128)
NARROW = Model("32/8 heads of 64", 32, 8, 64)
TINY = Model("tiny", 6, 2, 16)


@dataclass
class Inputs:
    """Some sequences of one layer: their newest rows, and all of their KV in pages."""

    q: torch.Tensor  # [T, Hq, D]
    kv_layer: torch.Tensor  # [2, pages, PAGE, Hkv, D]
    scales: KVScales | None
    rows: list[int]
    contexts: list[int]
    tables: torch.Tensor  # [S, P] int64

    @property
    def starts(self) -> list[int]:
        return [sum(self.rows[:s]) for s in range(len(self.rows) + 1)]

    @property
    def scale(self) -> float:
        return self.q.shape[2] ** -0.5

    def meta(self) -> AttentionMeta:
        """As the engine makes it: a step of single rows is a captured one."""
        if max(self.rows) > 1:
            return AttentionMeta.plan(self.starts, self.contexts, self.tables, PAGE)
        lens = torch.tensor(self.contexts, dtype=torch.int32, device=self.q.device)
        return AttentionMeta.captured(lens, self.tables.int(), PAGE, sum(self.contexts))

    def contiguous(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q [S, Hq, n, D], k and v [S, Hkv, c, D] of sequences that are alike."""
        q = self.q.view(len(self.rows), self.rows[0], *self.q.shape[1:]).transpose(1, 2).contiguous()
        k, v = self.kv_layer[:, self.tables].flatten(2, 3)[:, :, : self.contexts[0]].transpose(2, 3)
        return q, k.contiguous(), v.contiguous()


def cases(world: World) -> Iterator[Case]:
    if world.tiny:
        yield prefill(world, TINY, [(40, 40)], way_tune(TINY.dim, 40, 40))
        yield prefill(world, TINY, [(9, 30)] * 2)
        yield decode(world, TINY, [50, 50])
        yield decode(world, TINY, [50, 20], torch.int8)
        return
    launch_tune = partial(Tune, "attention_prefill")
    for tokens in 2048, 32768:
        yield prefill(world, LLAMA, [(tokens, tokens)], way_tune(128, tokens, tokens))
    yield prefill(world, LLAMA, [(8192, 8192)], launch_tune({"dim": 128, "bytes": 2}, PREFILL_USES))
    yield prefill(world, LLAMA, [(2048, 2048)] * 4)
    yield prefill(world, LLAMA, [(2048, 16384)], way_tune(128, 2048, 16384))
    yield prefill(world, LLAMA, [(128, 16384)], way_tune(128, 128, 16384))  # few tiles, many keys each
    yield prefill(world, NARROW, [(8192, 8192)], launch_tune({"dim": 64, "bytes": 2}, NARROW_USES))
    yield decode(world, LLAMA, [2048] * 64)
    yield decode(world, LLAMA, [8192] * 64, tune=decode_tune(LLAMA, BF16))
    yield decode(world, LLAMA, [16384] * 64)
    yield decode(world, QWEN, [2048] * 64, tune=decode_tune(QWEN, BF16))
    yield decode(world, LLAMA, [16384])
    yield decode(world, LLAMA, [8192] * 64, torch.int8)
    yield decode(world, LLAMA, [8192] * 64, torch.float8_e4m3fn, decode_tune(LLAMA, torch.float8_e4m3fn))


def tiles(*all_of: tuple[int, int, int, int, int]) -> list[Mapping[str, int]]:
    names = "BLOCK_M", "BLOCK_N", "num_warps", "num_stages", "maxnreg"
    return [dict(zip(names, each, strict=True)) for each in all_of]


PREFILL_USES = tiles(
    (128, 64, 8, 2, 0), (128, 64, 8, 4, 0), (128, 32, 8, 4, 0), (64, 64, 4, 2, 0), (64, 64, 4, 3, 0)
)  # fmt: skip
NARROW_USES = tiles(
    (128, 64, 8, 2, 128), (128, 64, 8, 2, 0), (128, 128, 8, 2, 0), (64, 64, 4, 3, 0), (128, 32, 8, 3, 128)
)  # fmt: skip


def way_tune(dim: int, rows: int, context: int) -> Tune:
    ways = attention_sdpa.FLASH, attention_sdpa.CUDNN
    shape = attention_sdpa.shape_of(dim, rows, context)
    return Tune("prefill_attention", shape, [{"by": way} for way in ways])


def decode_tune(model: Model, kv_dtype: torch.dtype) -> Tune:
    group, codes = model.heads // model.kv_heads, kv_dtype.itemsize == 1
    default = attention_decode.default_use(model.dim, BF16, kv_dtype)
    changes: list[dict[str, int]] = [
        {"programs": 2},
        {"programs": 6},
        {"SPLIT": 256},
        {"SPLIT": 1024},
        {"num_stages": 2, "programs": 4},
        {"num_stages": 4, "programs": 2},
        {"BLOCK_N": 32, "num_stages": 4, "programs": 4},
        {"BLOCK_N": 64, "num_stages": 3, "programs": 4},
        {"BLOCK_N": 128, "num_warps": 8, "num_stages": 3 if codes else 2, "programs": 3},
        {"BLOCK_M": 64, "BLOCK_N": 64, "num_stages": 3 if codes else 2, "programs": 2},
    ]
    uses = [{**default, **change} for change in changes]
    shape = {"dim": model.dim, "group": group, "bytes": kv_dtype.itemsize}
    return Tune("attention_decode", shape, [use for use in uses if use != default])


def prefill(world: World, model: Model, work: Sequence[tuple[int, int]], tune: Tune | None = None) -> Case:
    """``work``: (new tokens, context with them) of each sequence."""
    rows, contexts = [n for n, _ in work], [c for _, c in work]
    inputs = make(world, model, rows, contexts)
    pairs = sum(n * (2 * c - n + 1) // 2 for n, c in work)
    cached = contexts[0] - rows[0]
    shape = f"{model.name}, {len(rows)} x {rows[0]}" + (f" after {cached} cached" if cached else "")
    return Case(
        kernel="prefill attention",
        shape=shape,
        runs=[attend(inputs)],
        wrong=partial(wrong, inputs),
        tolerance=1e-2,
        nbytes=2 * inputs.q.nbytes + kv_bytes(inputs),
        flops=4 * model.dim * model.heads * pairs,
        peers=peers_of(inputs),
        target=Target("peer", 0.9) if model.dim == 128 and rows[0] >= 2048 else None,
        tune=tune,
    )


def decode(
    world: World,
    model: Model,
    contexts: list[int],
    kv_dtype: torch.dtype = BF16,
    tune: Tune | None = None,
) -> Case:
    first = make(world, model, [1] * len(contexts), contexts, kv_dtype)
    copies = min(4, math.ceil(150e6 / kv_bytes(first))) if not world.tiny else 1
    more = [make(world, model, [1] * len(contexts), contexts, kv_dtype) for _ in range(copies - 1)]
    kind = "" if kv_dtype == BF16 else f", {kv_dtype}".replace("torch.", "").replace("float8_e4m3fn", "fp8")
    peers = {}
    if kv_dtype == BF16 and kv_bytes(first) < 1e9 and len(set(contexts)) == 1:
        peers = {"SDPA, contiguous": [sdpa(each, None, False) for each in (first, *more)]}
    return Case(
        kernel="decode attention",
        shape=f"{model.name}, {len(contexts)} x {contexts[0]}{kind}",
        runs=[attend(each) for each in (first, *more)],
        wrong=partial(wrong, first),
        tolerance=1e-2,
        nbytes=kv_bytes(first),
        flops=4 * model.dim * model.heads * sum(contexts),
        peers=peers,
        target=Target("ceiling", 0.85) if len(contexts) > 1 else None,
        tune=tune,
    )


def make(
    world: World, model: Model, rows: list[int], contexts: list[int], kv_dtype: torch.dtype = BF16
) -> Inputs:
    counts = [-(-c // PAGE) for c in contexts]
    dtype = torch.float32 if world.tiny and kv_dtype == BF16 else kv_dtype
    shape = 2, sum(counts), PAGE, model.kv_heads, model.dim
    scales = None
    if dtype.itemsize > 1:
        kv_layer = torch.randn(shape, dtype=dtype, device=world.device)
    elif dtype == torch.int8:
        kv_layer = torch.randint(-127, 128, shape, dtype=dtype, device=world.device)
    else:
        kv_layer = torch.randn(shape, dtype=BF16, device=world.device).to(dtype)
    if dtype.itemsize == 1:
        by = 1 / 70 if dtype == torch.int8 else 1.0
        scales = KVScales(torch.full((2, model.kv_heads), by, device=world.device))
    pages = torch.randperm(sum(counts), device=world.device)
    tables = torch.nn.utils.rnn.pad_sequence(list(pages.split(counts)), batch_first=True)
    wide = torch.float32 if world.tiny else BF16
    q = torch.randn(sum(rows), model.heads, model.dim, dtype=wide, device=world.device)
    return Inputs(q, kv_layer, scales, rows, contexts, tables)


def kv_bytes(inputs: Inputs) -> int:
    _, _, _, kv_heads, dim = inputs.kv_layer.shape
    return 2 * sum(inputs.contexts) * kv_heads * dim * inputs.kv_layer.dtype.itemsize


def attend(inputs: Inputs) -> Run:
    """The layers after the first of a step: its plan is made once, for each choice of launch parameters."""
    metas: dict[object, AttentionMeta] = {}

    def run() -> torch.Tensor:
        key = uses(inputs)
        if key not in metas:
            metas[key] = inputs.meta()
        q, kv_layer, scales = inputs.q, inputs.kv_layer, inputs.scales
        return attention_triton.attend(q, kv_layer, metas[key], inputs.scale, None, scales)

    return run


def uses(inputs: Inputs) -> object:
    """What a plan depends on beside its step."""
    heads, dim, device = *inputs.q.shape[1:], inputs.q.device
    types = inputs.q.dtype, inputs.kv_layer.dtype, device
    shape = attention_sdpa.shape_of(dim, inputs.rows[0], inputs.contexts[0])
    found = (
        attention_prefill.use_of(dim, *types),
        attention_decode.use_of(heads // inputs.kv_layer.shape[3], dim, *types),
        tuned.config("prefill_attention", shape, attention_sdpa.DEFAULT, device),
    )
    return tuple(tuple(sorted(use.items())) for use in found)


def peers_of(inputs: Inputs) -> dict[str, Run]:
    def gathered(way: int) -> Run:
        run = attend(inputs)

        def under() -> object:
            with tuned.override("prefill_attention", {"by": way}):
                return run()

        return under

    found: dict[str, Run] = {"SDPA flash": sdpa(inputs, SDPBackend.FLASH_ATTENTION, True)}
    if inputs.rows == inputs.contexts:
        found["SDPA cuDNN"] = sdpa(inputs, SDPBackend.CUDNN_ATTENTION, True)
    return found | {"pages gathered, SDPA flash": gathered(attention_sdpa.FLASH)}


def sdpa(inputs: Inputs, backend: SDPBackend | None, causal: bool) -> Run:
    """torch's kernel over contiguous keys and values, which are made at its first call."""
    held: list[tuple[torch.Tensor, ...]] = []
    way = attention_sdpa.CUDNN if backend == SDPBackend.CUDNN_ATTENTION else attention_sdpa.FLASH

    def run() -> torch.Tensor:
        if not held:
            held.append(inputs.contiguous())
        q, k, v = held[0]
        if causal:
            return attention_sdpa.attend_contiguous(q, k, v, inputs.scale, way)
        return F.scaled_dot_product_attention(q, k, v, scale=inputs.scale, enable_gqa=True)

    return run


def wrong(inputs: Inputs) -> float:
    """Of the first and the last rows of each sequence and some between: at most 16 in all, but two each."""
    poison(inputs.q)
    out = attend(inputs)()
    if out.isnan().any():
        return math.nan
    each = max(2, 16 // len(inputs.rows))
    got, want = [], []
    for s, (n, context) in enumerate(zip(inputs.rows, inputs.contexts, strict=True)):
        chosen = sorted({round(i * (n - 1) / (each - 1)) for i in range(each)})
        if s % max(1, len(inputs.rows) // 8):
            continue
        for row in chosen:
            at = inputs.starts[s] + row
            meta = AttentionMeta.plan([0, 1], [context - n + row + 1], inputs.tables[s : s + 1], PAGE)
            q = inputs.q[at : at + 1].double()
            want.append(
                paged_attention_reference(q, inputs.kv_layer, meta, inputs.scale, None, inputs.scales)
            )
            got.append(out[at : at + 1])
    return relative_error(torch.cat(got), torch.cat(want))


def poison(*like: torch.Tensor) -> None:
    """Leave NaN in freed memory that the next results of these shapes are given."""
    _ = [torch.full(x.shape, float("nan"), dtype=x.dtype, device=x.device) for x in like]
