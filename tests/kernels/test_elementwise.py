"""Norm, rope, gate, embedding and the fused steps against plain references and the steps one by one."""

from __future__ import annotations

import pytest
import torch

from kernels.activation import silu_mul
from kernels.embedding import embed
from kernels.kv_pages import gather, store
from kernels.kv_wire import CODE_MAX, dequantise_torch
from kernels.norm import add_rms_norm, rms_norm, rms_norm_reference
from kernels.rope import apply_rope
from kernels.rope_store import rope_store

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DTYPES = list(TOLERANCE)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want.to(got.dtype), rtol=TOLERANCE[got.dtype], atol=TOLERANCE[got.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 576), (7, 3, 64), (1, 1), (2, 9, 100), (0, 8)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[-1]).to(dtype)
    got = rms_norm(x, weight, 1e-6)
    assert got.dtype == dtype
    close(got, rms_norm_reference(x, weight, 1e-6))


def test_rms_norm_sums_half_precision_in_float32() -> None:
    x = torch.full((1, 64), 300.0, dtype=torch.float16)  # its square overflows float16
    close(rms_norm(x, torch.ones(64, dtype=torch.float16), 1e-6), torch.ones(1, 64))


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate each pair (i, i + half) as a complex number."""
    half = cos.shape[1]
    pair = torch.complex(x[..., :half].float(), x[..., half : 2 * half].float())
    pair = pair * torch.complex(cos, sin)[:, None]
    return torch.cat((pair.real, pair.imag, x[..., 2 * half :].float()), -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("dim", "rotary"), [(64, 64), (80, 32), (16, 2), (128, 126)])
def test_rope(dim: int, rotary: int, dtype: torch.dtype) -> None:
    q, k = torch.randn(5, 7, dim).to(dtype), torch.randn(5, 2, dim).to(dtype)
    angle = torch.rand(5, rotary // 2) * 6
    for got, x in zip(apply_rope(q, k, angle.cos(), angle.sin()), (q, k), strict=True):
        assert got.dtype == dtype
        close(got, turned(x, angle.cos(), angle.sin()))


def test_rope_reads_slices_of_a_fused_qkv() -> None:
    qkv = torch.randn(5, 4 * 16)
    q, k = qkv[:, :32].view(5, 2, 16), qkv[:, 32:48].view(5, 1, 16)
    angle = torch.rand(5, 8)
    assert torch.equal(
        apply_rope(q, k, angle.cos(), angle.sin())[1],
        apply_rope(q.clone(), k.clone(), angle.cos(), angle.sin())[1],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 2 * 1536), (3, 2), (1, 2 * 333), (0, 8)])
def test_silu_mul(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    gate, up = x.float().chunk(2, 1)
    got = silu_mul(x)
    assert got.dtype == dtype
    close(got, gate / (1 + torch.exp(-gate)) * up)


def test_silu_mul_leaves_its_input() -> None:
    x = torch.randn(3, 8)
    before = x.clone()
    silu_mul(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rms_norm_is_the_sum_and_then_the_norm(dtype: torch.dtype) -> None:
    x, residual, weight = (torch.randn(*shape).to(dtype) for shape in ((7, 100), (7, 100), (100,)))
    normed, summed = add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(summed, residual + x)
    assert torch.equal(normed, rms_norm(residual + x, weight, 1e-6))


def test_embed_knows_tokens_that_the_host_does_not() -> None:
    table, ids = torch.randn(9, 5), torch.tensor([3, -1, 8, -3, -2])
    assert torch.equal(embed(table, ids, torch.tensor([4, 0, 7])), table[[3, 4, 8, 7, 0]])


@pytest.mark.parametrize("bad", [-1, 9, 2**40])
def test_a_sampled_token_out_of_the_vocabulary_is_token_0(bad: int) -> None:
    table = torch.randn(9, 5)
    assert torch.equal(embed(table, torch.tensor([-1, 2]), torch.tensor([bad])), table[[0, 2]])


def test_embed_without_late_tokens_is_a_choice_of_rows() -> None:
    table, ids = torch.randn(9, 5), torch.tensor([3, 3, 0])
    for sampled in None, torch.tensor([4]), torch.empty(0, dtype=torch.int64):
        assert torch.equal(embed(table, ids, sampled), table[ids])
    assert embed(table, ids[:0]).shape == (0, 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [False, True])
def test_rope_store_is_its_steps_bit_for_bit(norm: bool, kv_dtype: torch.dtype, dtype: torch.dtype) -> None:
    qkv, angle = torch.randn(5, 9 * 20).to(dtype), torch.rand(30, 7) * 6
    q_norm, k_norm = (torch.randn(20).to(dtype) if norm else None for _ in "qk")
    positions, slots = torch.tensor([3, 29, 0, 3, 11]), torch.tensor([5, -1, 23, 0, 8])
    kv_layer = torch.randn(2, 6, 4, 2, 20).to(kv_dtype)
    twin = kv_layer.clone()
    q = rope_store(qkv, (5, 2), q_norm, k_norm, 1e-6, angle.cos(), angle.sin(), positions, kv_layer, slots)
    want, k, v = torch.split(qkv.view(5, 9, 20), [5, 2, 2], dim=1)
    if q_norm is not None and k_norm is not None:
        want, k = rms_norm(want, q_norm, 1e-6), rms_norm(k, k_norm, 1e-6)
    want, k = apply_rope(want, k, angle.cos()[positions], angle.sin()[positions])
    kept = slots >= 0
    store(k.to(kv_dtype)[kept], v.to(kv_dtype)[kept], twin, slots[kept])
    assert torch.equal(q, want)
    assert torch.equal(kv_layer, twin)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("code", list(CODE_MAX))
def test_rope_store_of_codes(code: torch.dtype, own: bool) -> None:
    qkv, angle, slots = torch.randn(4, 4 * 16), torch.rand(4, 8), torch.tensor([5, -1, 7, 0])
    table = angle.cos(), angle.sin(), torch.arange(4)
    plain = torch.zeros(2, 3, 4, 1, 16)
    want = rope_store(qkv, (2, 1), None, None, 1e-6, *table, plain, slots)
    coded, scales = torch.zeros_like(plain).to(code), torch.zeros(2, 3, 4, 1)
    if not own:
        scales = torch.full((2, 1), 5.0 / CODE_MAX[code])
    q = rope_store(qkv, (2, 1), None, None, 1e-6, *table, coded, slots, scales)
    assert torch.equal(q, want)
    wide = scales if own else scales[:, None, None].expand(2, 3, 4, 1)
    difference = (dequantise_torch(coded, wide, torch.float32) - plain).abs()
    step = wide[..., None] * (0.501 if code == torch.int8 else 2**-10)
    assert bool((difference <= (step if code == torch.int8 else torch.maximum(plain.abs() / 16, step))).all())
    index = torch.tensor([slot for slot in range(12) if slot not in slots.tolist()])
    assert not gather(coded[None].view(torch.uint8), index).any()
    assert not own or not scales.view(2, 12)[:, index].any()
