"""KV as codes of 8 bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gpu_cases import DEVICE, TOLERANCE, wrong
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_gpu import Launch

from kernels.kv_pages import gather_torch
from kernels.kv_wire import (
    CODE_MAX,
    dequantise_torch,
    gather_quantised_triton,
    quantise_torch,
    scatter_quantised_triton,
)

few = settings(deadline=None, max_examples=12)
slot_lists = st.lists(st.integers(0, 23), min_size=1, max_size=24, unique=True)
rows = st.sampled_from([(1, 1), (3, 20), (2, 128), (5, 96), (1, 256)])  # Hkv, D
codes_of_8_bits = st.sampled_from(list(CODE_MAX))


def random_kv(row: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """[2, 2, 6, 4, Hkv, D], each head with a magnitude of its own; finite in fp16."""
    x = torch.randn(2, 2, 6, 4, *row) * torch.exp(4 * torch.randn(2, 2, 6, 4, row[0], 1))
    return x.clamp(-6e4, 6e4).to(DEVICE, dtype)


@few
@given(slot_lists, rows, st.sampled_from(list(TOLERANCE)), codes_of_8_bits)
def test_gathered_codes_are_those_of_the_reference(
    slots: list[int], row: tuple[int, int], dtype: torch.dtype, code: torch.dtype
) -> None:
    kv, index = random_kv(row, dtype), torch.tensor(slots, device=DEVICE)
    kv[:, :, slots[0] // 4, slots[0] % 4] = 0.0
    codes, scales = gather_quantised_triton(kv, index, code)
    want_codes, want_scales = quantise_torch(gather_torch(kv, index), code)
    assert torch.equal(scales, want_scales)
    assert torch.equal(codes.float(), want_codes.float())
    assert not scales[:, :, 0].any()


@few
@given(slot_lists, rows, st.sampled_from(list(TOLERANCE)), codes_of_8_bits)
def test_scatter_writes_what_the_codes_stand_for_and_nothing_else(
    slots: list[int], row: tuple[int, int], dtype: torch.dtype, code: torch.dtype
) -> None:
    kv, index = random_kv(row, dtype).clamp(-100, 100), torch.tensor(slots, device=DEVICE)
    before, (codes, scales) = kv.clone(), quantise_torch(gather_torch(kv, index), code)
    scatter_quantised_triton(kv, index, codes, 2 * scales)
    assert (
        wrong(gather_torch(kv, index), dequantise_torch(codes, 2 * scales, torch.float32)) < TOLERANCE[dtype]
    )
    others = torch.tensor([s for s in range(24) if s not in slots], dtype=torch.int64, device=DEVICE)
    assert torch.equal(gather_torch(kv, others), gather_torch(before, others))


@pytest.mark.parametrize("code", list(CODE_MAX))
def test_every_code_is_rounded_as_torch_rounds(code: torch.dtype) -> None:
    kv = torch.linspace(-1.0, 1.0, 2 * 16 * 256, device=DEVICE).view(1, 2, 1, 16, 1, 256)
    kv = torch.cat((kv[..., :-1], torch.full_like(kv[..., :1], CODE_MAX[code] / 256)), -1) * 256
    slots = torch.arange(16, device=DEVICE)
    codes, _ = gather_quantised_triton(kv, slots, code)
    assert torch.equal(codes.float(), quantise_torch(gather_torch(kv, slots), code)[0].float())


def test_halves_go_to_the_even_code() -> None:
    ties = torch.arange(-127.5, 128, 1, device=DEVICE).clamp(-127, 127)
    slots = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    codes, scales = gather_quantised_triton(ties.expand(1, 2, 1, 1, 1, 256).contiguous(), slots, torch.int8)
    assert torch.equal(scales, torch.ones_like(scales))
    assert torch.equal(codes.float(), ties.round().expand_as(codes))


def launches() -> Iterator[Launch]:
    slots = torch.arange(3)
    for dim in 128, 64:
        kv = torch.zeros(2, 2, 6, 16, 8, dim, dtype=torch.bfloat16)
        for code in CODE_MAX:
            codes, scales = quantise_torch(kv[:, :, 0, :3], code)
            yield Launch(
                f"gather_quantised {dim} {code}",
                lambda kv=kv, code=code: gather_quantised_triton(kv, slots, code),
            )
            yield Launch(
                f"scatter_quantised {dim} {code}",
                lambda kv=kv, c=codes, s=scales: scatter_quantised_triton(kv, slots, c, s),
            )
