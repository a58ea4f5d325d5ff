"""Paged attention of a mixed step, and of chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from attention_world import make_world, poisoned, quantise
from gpu_cases import DEVICE, TOLERANCE, close, wrong
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from offline_gpu import Launch

from kernels import attention_prefill, attention_sdpa, attention_triton, tuned
from kernels.attention import AttentionMeta, KVScales, paged_attention_reference

FLOAT = torch.float32
# The interpreter multiplies by numpy, whose rows depend on their place in a tile: there cut at its end.
CUT = 43 if DEVICE == "cuda" else 4 * (attention_prefill.default_use(16, FLOAT, FLOAT)["BLOCK_M"] // 3)

ATTENTION = [  # Hq, Hkv, D, page size, window
    (9, 3, 64, 16, None),
    (4, 4, 16, 1, None),
    (8, 2, 20, 64, 100),
    (7, 1, 32, 48, 33),
]


@pytest.mark.parametrize(("heads", "kv_heads", "dim", "page_size", "window"), ATTENTION)
def test_attention(heads: int, kv_heads: int, dim: int, page_size: int, window: int | None) -> None:
    world = make_world([90, 70, 1, 600], page_size, kv_heads, dim)
    meta, kv_layer = world.meta([30, 1, 1, 1]), world.kv_layer.to(DEVICE)
    q = torch.randn(33, heads, dim, device=DEVICE)
    with poisoned():
        got = attention_triton.attend(q, kv_layer, meta, dim**-0.5, window)
    close(got, paged_attention_reference(q, kv_layer, meta, dim**-0.5, window))


@example((7, 1), 32, 16, None, torch.bfloat16, [(90, 33)], (torch.float8_e4m3fn, False), False)
@example((8, 2), 16, 64, 50, torch.float32, [(90, 33), (70, 2)], (torch.float8_e4m3fn, True), False)
@settings(deadline=None, max_examples=12, phases=[Phase.explicit, Phase.generate])
@given(
    heads=st.sampled_from([(4, 4), (9, 3), (8, 2), (7, 1), (12, 1), (17, 1)]),
    dim=st.sampled_from([16, 20, 64, 96, 128]),
    page_size=st.sampled_from([1, 16, 24, 64, 256]),
    window=st.sampled_from([None, 1, 64, 150]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    work=st.lists(st.tuples(st.integers(1, 300), st.sampled_from([1, 2, 33])), min_size=1, max_size=3),
    codes=st.sampled_from([None, None, (torch.int8, False), (torch.int8, True)]),
    deterministic=st.booleans(),
)
def test_any_step_agrees_with_the_reference_in_float64(
    heads: tuple[int, int],
    dim: int,
    page_size: int,
    window: int | None,
    dtype: torch.dtype,
    work: list[tuple[int, int]],
    codes: tuple[torch.dtype, bool] | None,
    deterministic: bool,
) -> None:
    world, rows = make_world([c for c, _ in work], page_size, heads[1], dim), [min(each) for each in work]
    kv_layer, scales = (world.kv_layer.to(dtype), None) if codes is None else quantise(world, *codes)
    meta = replace(world.meta(rows), deterministic=deterministic)
    # Wider than the scores' spread: one key would outweigh the others, and hide a key too many or too few.
    q = (torch.randn(sum(rows), heads[0], dim) / 2).to(dtype)
    moved = None if scales is None else KVScales(scales.values.to(DEVICE))
    with poisoned():
        got = attention_triton.attend(q.to(DEVICE), kv_layer.to(DEVICE), meta, dim**-0.5, window, moved)
    want = paged_attention_reference(q.double(), kv_layer, meta, dim**-0.5, window, scales)
    assert wrong(got.cpu(), want) < TOLERANCE[dtype]


@pytest.mark.parametrize("window", [None, 50])
def test_a_chunk_does_not_feel_where_it_was_cut(window: int | None) -> None:
    world = make_world([100], 16, 1, 16)
    kv_layer, q = world.kv_layer.to(DEVICE), torch.randn(100, 3, 16, device=DEVICE)
    whole = attention_triton.attend(q, kv_layer, world.meta([100]), 0.25, window)
    first = attention_triton.attend(q[:CUT], kv_layer, world.meta([CUT], [CUT]), 0.25, window)
    second = attention_triton.attend(q[CUT:], kv_layer, world.meta([100 - CUT]), 0.25, window)
    assert torch.equal(torch.cat((first, second)), whole)


def test_a_chunk_does_not_feel_its_neighbours() -> None:
    world = make_world([300, 90, 40], 16, 1, 16)
    kv_layer, q = world.kv_layer.to(DEVICE), torch.randn(190, 3, 16, device=DEVICE)
    together = attention_triton.attend(q, kv_layer, world.meta([90, 60, 40]), 0.25, None)
    alone = AttentionMeta.plan([0, 60], [90], world.page_tables[1:2], 16)
    assert torch.equal(attention_triton.attend(q[90:150], kv_layer, alone, 0.25, None), together[90:150])


@pytest.mark.parametrize("window", [None, 40])
def test_a_deterministic_row_does_not_feel_whether_it_came_alone(window: int | None) -> None:
    """First in its tile in both, for the interpreter's sake."""
    world, row = make_world([100], 16, 1, 16), 80
    kv_layer, q = world.kv_layer.to(DEVICE), torch.randn(100, 3, 16, device=DEVICE)
    chunk = attention_triton.attend(q[row:], kv_layer, world.meta([100 - row]), 0.25, window)
    meta = replace(world.meta([1], [row + 1]), deterministic=True)
    alone = attention_triton.attend(q[row : row + 1], kv_layer, meta, 0.25, window)
    assert torch.equal(alone[0], chunk[0])


@pytest.mark.parametrize("way", [attention_sdpa.FLASH, attention_sdpa.CUDNN])
def test_torch_may_attend_to_a_chunk(way: int) -> None:
    """One without a prefix, one with, and a single row that stays with our kernel."""
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    world = make_world([90, 70, 50], 16, 2, 64)
    kv_layer, q = world.kv_layer.to(DEVICE, dtype), torch.randn(121, 8, 64).to(DEVICE, dtype)
    with tuned.override("prefill_attention", {"by": way}):
        got = attention_triton.attend(q, kv_layer, meta := world.meta([90, 30, 1]), 0.125, None)
        deterministic = attention_triton.attend(
            q, kv_layer, replace(world.meta([90, 30, 1]), deterministic=True), 0.125, None
        )
    want = paged_attention_reference(q.double(), kv_layer, meta, 0.125, None)
    assert wrong(got, want) < TOLERANCE[dtype]
    with tuned.override("prefill_attention", {"by": attention_sdpa.OWN}):
        own = attention_triton.attend(
            q, kv_layer, replace(world.meta([90, 30, 1]), deterministic=True), 0.125, None
        )
    assert torch.equal(deterministic, own)


def launches() -> Iterator[Launch]:
    def of(name: str, q: torch.Tensor, page_size: int, window: int | None = None, **kv: object) -> Launch:
        world = make_world([90], page_size, 8, q.shape[2])
        codes, per_token = kv.get("codes"), bool(kv.get("per_token"))
        scales = None
        if codes is None:
            layer = world.kv_layer.to(q.dtype)
        else:
            assert isinstance(codes, torch.dtype)
            layer, scales = quantise(world, codes, per_token)
        meta = world.meta([30])
        return Launch(
            name,
            lambda: attention_triton.attend(q, layer, meta, 0.1, window, scales),
            tensor_cores=True,
            pipelined=True,
        )

    for dim in (64, 128, 256):
        for page_size in (16, 64):
            q = torch.zeros(30, 32, dim, dtype=torch.bfloat16)
            yield of(f"prefill of width {dim} over pages of {page_size}", q, page_size)
    q = torch.zeros(30, 32, 128, dtype=torch.bfloat16)
    yield of("prefill in a window", q, 16, 1000)
    yield of("prefill over int8", q, 16, codes=torch.int8)
    yield of("prefill over fp8, scales per token", q, 16, codes=torch.float8_e4m3fn, per_token=True)
