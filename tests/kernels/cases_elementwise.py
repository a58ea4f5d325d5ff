"""RMS norm alone and behind a sum, rotary embedding alone and on the way to the pages, SwiGLU, embedding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gpu_cases import DEVICE, TOLERANCE, close, poison, wrong
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_gpu import Launch

from kernels.activation import silu_mul_torch, silu_mul_triton
from kernels.embedding import embed_torch, embed_triton
from kernels.kv_wire import CODE_MAX, dequantise_torch
from kernels.norm import add_rms_norm_triton, rms_norm_reference, rms_norm_triton
from kernels.rope import rotate_torch, rotate_triton
from kernels.rope_store import rope_store_torch, rope_store_triton

few = settings(deadline=None, max_examples=8)
dtypes = st.sampled_from(list(TOLERANCE))


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


@pytest.mark.parametrize("shape", [(5, 576), (3, 2, 64), (1, 1), (0, 8)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    x, weight = normal(*shape), normal(shape[-1])
    close(rms_norm_triton(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6))


@few
@given(st.integers(1, 40), st.sampled_from([1, 7, 96, 1024, 2056, 5000]), dtypes)
def test_add_rms_norm(rows: int, hidden: int, dtype: torch.dtype) -> None:
    x, residual, weight = normal(rows, hidden, dtype=dtype), normal(rows, hidden, dtype=dtype), normal(hidden)
    normed, summed = add_rms_norm_triton(x, residual, weight.to(dtype), 1e-6)
    assert normed.dtype == summed.dtype == dtype
    wide = (residual + x).double()
    assert wrong(summed, wide) < TOLERANCE[dtype]
    scale = (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert wrong(normed, wide * scale * weight.to(dtype).double()) < TOLERANCE[dtype]


@pytest.mark.parametrize("hidden", [64, 1024, 5000])
def test_a_normed_row_does_not_feel_the_others(hidden: int) -> None:
    x, residual, weight = normal(9, hidden), normal(9, hidden), normal(hidden)
    alone = torch.cat([rms_norm_triton(row[None], weight, 1e-6) for row in x])
    assert torch.equal(rms_norm_triton(x, weight, 1e-6), alone)
    pairs = zip(x, residual, strict=True)
    alone = torch.cat([add_rms_norm_triton(a[None], b[None], weight, 1e-6)[0] for a, b in pairs])
    assert torch.equal(add_rms_norm_triton(x, residual, weight, 1e-6)[0], alone)


@pytest.mark.parametrize(("dim", "rotary"), [(64, 64), (80, 32), (16, 2)])
def test_rope(dim: int, rotary: int) -> None:
    fused = normal(5, 4 * dim)
    x, angle = fused[:, dim:].view(5, 3, dim), torch.rand(5, rotary // 2, device=DEVICE)
    close(rotate_triton(x, angle.cos(), angle.sin()), rotate_torch(x, angle.cos(), angle.sin()))


@few
@given(st.sampled_from([1, 3, 130]), st.sampled_from([1, 333, 1536, 2056]), dtypes)
def test_silu_mul(rows: int, width: int, dtype: torch.dtype) -> None:
    fused = normal(rows, 2 * width + 8, dtype=dtype)[:, : 2 * width]
    gate, up = fused.double().chunk(2, 1)
    assert wrong(silu_mul_triton(fused), gate / (1 + torch.exp(-gate)) * up) < TOLERANCE[dtype]
    if dtype == torch.float32:
        close(silu_mul_triton(fused), silu_mul_torch(fused))


@few
@given(st.lists(st.integers(-3, 8), min_size=1, max_size=9), st.sampled_from([1, 20, 2056]), dtypes)
def test_embed(ids: list[int], hidden: int, dtype: torch.dtype) -> None:
    table, late = normal(9, hidden, dtype=dtype), torch.tensor([8, -1, 9], device=DEVICE)
    index = torch.tensor(ids, device=DEVICE)
    got = embed_triton(table, index, late)
    assert torch.equal(got, embed_torch(table, index, late))
    assert torch.equal(got, table[[{-1: 8, -2: 0, -3: 0}.get(i, i) for i in ids]])


def test_embed_reads_no_foreign_memory() -> None:
    around = torch.full((9, 1), float("nan"), device=DEVICE)
    around[3:6, 0] = torch.tensor([1.0, 2.0, 3.0])
    ids = torch.tensor([-1, -2, -3, -4, -5, -(2**40), 2**40, 2], device=DEVICE)
    late = torch.tensor([7, -1, 3, -(2**62), 2], device=DEVICE)[:4]
    for known in late, None:
        got = embed_triton(around[3:6], ids, known)
        assert got[:, 0].tolist() == [1.0] * 7 + [3.0]


class Step:
    """Tokens of one layer on their way to ``kv``: arguments of ``rope_store``."""

    def __init__(
        self, tokens: int, heads: tuple[int, int], dim: int, rotary: int, dtype: torch.dtype, norm: bool
    ) -> None:
        self.heads, self.dtype = heads, dtype
        self.qkv = normal(tokens, (heads[0] + 2 * heads[1]) * dim, dtype=dtype)
        self.norms = [normal(dim, dtype=dtype) if norm else None for _ in "qk"]
        angle = torch.rand(50, rotary // 2, device=DEVICE) * 6
        self.table = angle.cos(), angle.sin()
        self.positions = torch.randint(50, (tokens,), device=DEVICE)
        self.slots = torch.randperm(32)[:tokens].to(DEVICE)
        self.kv = poison(2, 8, 4, heads[1], dim, dtype=dtype)

    def run(self, how, kv: torch.Tensor, scales: torch.Tensor | None = None):  # type: ignore[no-untyped-def]
        return how(
            self.qkv, self.heads, *self.norms, 1e-6, *self.table, self.positions, kv, self.slots, scales
        )


def agree(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    """Poison is where it was, all else agrees."""
    assert torch.equal(got.isnan(), want.isnan())
    assert wrong(got.nan_to_num(0.0), want.nan_to_num(0.0)) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("heads", "dim", "rotary"),
    [((9, 3), 64, 64), ((28, 4), 96, 96), ((3, 1), 128, 128), ((2, 2), 256, 64), ((5, 5), 20, 6)],
)
def test_rope_store(heads: tuple[int, int], dim: int, rotary: int, norm: bool, dtype: torch.dtype) -> None:
    step = Step(5, heads, dim, rotary, dtype, norm)
    step.slots[2] = -1
    step.qkv[:, ::7] *= -0.0
    kv, twin = step.kv.clone(), step.kv.clone()
    q, want = step.run(rope_store_triton, kv), step.run(rope_store_torch, twin)
    assert wrong(q, want) < TOLERANCE[dtype]
    agree(kv, twin, TOLERANCE[dtype])
    if not norm and dtype == torch.float32:
        assert torch.equal(q.view(torch.int32), want.view(torch.int32))
        assert torch.equal(kv.view(torch.int32), twin.view(torch.int32))


@pytest.mark.parametrize("code", list(CODE_MAX))
@pytest.mark.parametrize("own", [False, True])
def test_rope_store_of_codes(code: torch.dtype, own: bool) -> None:
    step = Step(5, (6, 2), 20, 12, torch.float32, norm=False)
    step.slots[2] = -1
    step.qkv[1, 6 * 20 :] = 0.0
    scales = torch.rand(2, 2, device=DEVICE) / CODE_MAX[code] * 3
    scales[1, 0] = 0.0
    if own:
        scales = poison(2, 8, 4, 2)
    kv, kept = poison(2, 8, 4, 2, 20, dtype=code), scales.clone()
    twin, twin_scales = kv.clone(), scales.clone()
    assert torch.equal(step.run(rope_store_triton, kv, scales), step.run(rope_store_torch, twin, twin_scales))
    assert torch.equal(kv.float().nan_to_num(999.0), twin.float().nan_to_num(999.0))
    assert torch.equal(scales.nan_to_num(7.0), twin_scales.nan_to_num(7.0))
    if own:
        step.run(rope_store_torch, step.kv)
        agree(dequantise_torch(kv, scales, torch.float32), step.kv, 0.02 if code == torch.int8 else 0.05)
    else:
        assert torch.equal(scales, kept)


def test_rope_store_does_not_feel_other_tokens() -> None:
    step = Step(7, (4, 2), 64, 64, torch.float32, norm=True)
    kv, q = step.kv.clone(), step.run(rope_store_triton, step.kv)
    for i in range(7):
        alone = Step(1, (4, 2), 64, 64, torch.float32, norm=True)
        alone.norms, alone.table = step.norms, step.table
        alone.qkv, alone.positions, alone.slots = (
            x[i : i + 1] for x in (step.qkv, step.positions, step.slots)
        )
        assert torch.equal(alone.run(rope_store_triton, kv)[0], q[i])
    assert torch.equal(kv.nan_to_num(7.0), step.kv.nan_to_num(7.0))


def launches() -> Iterator[Launch]:
    bf16 = torch.bfloat16
    for hidden in (1024, 3584, 4096):
        x, weight = torch.zeros(3, hidden, dtype=bf16), torch.zeros(hidden, dtype=bf16)
        yield Launch(f"add_rms_norm {hidden}", lambda x=x, w=weight: add_rms_norm_triton(x, x, w, 1e-6))
    yield Launch("rms_norm 4096", lambda: rms_norm_triton(x, weight, 1e-6))
    for rows in (1, 256):
        fused = torch.zeros(rows, 2 * 14336, dtype=bf16)
        yield Launch(f"silu_mul of {rows} rows", lambda fused=fused: silu_mul_triton(fused))
    ids = torch.zeros(3, dtype=torch.int64)
    yield Launch("embed", lambda: embed_triton(x, ids, ids))
    for heads, dim, norm in ((32, 8), 128, False), ((28, 4), 128, False), ((16, 8), 128, True):
        step = Step(3, heads, dim, dim, bf16, norm)
        yield Launch(f"rope_store {heads} {norm}", lambda step=step: step.run(rope_store_triton, step.kv))
    step = Step(3, (32, 8), 128, 128, bf16, norm=False)
    for code in CODE_MAX:
        for scales in torch.zeros(2, 8), torch.zeros(2, 8, 4, 8):
            kv = poison(2, 8, 4, 8, 128, dtype=code)
            yield Launch(
                f"rope_store {code} {scales.dim()}",
                lambda kv=kv, scales=scales: step.run(rope_store_triton, kv, scales),
            )
