"""Four-bit codes in registers, made numbers without a conversion instruction.

A code set into the low bits of a bf16 whose exponent says 128 is the number 128 + code (1024 + code in fp16),
exactly: two codes a shift and one logical instruction on one register, as FasterTransformer does it (Kim
2022). Zeros cost next to nothing: 16 - zero is added to the same bits, while they are whole numbers. What is
subtracted then leaves code - zero, exactly as well. Knows the layout of ``kernels.w4_layouts``.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch

from kernels.backend import jit, tl
from kernels.matmul_tiles import operand
from kernels.w4_layouts import W4Weight


@jit
def load_bits(other, group, n, N, OTHER: tl.constexpr, FP16: tl.constexpr):
    """Where a group has zeros, what makes a code 1040 or 144 and code - zero, for each n; else of no use.

    16 - zero on top of 1024 or 128 in both halves of a register: no carry, as 0 <= 16 - zero + code < 32.
    """
    bits = n
    if OTHER == "zeros":
        zero = tl.load(other + group * N + n, mask=n < N, other=8).to(tl.int32)
        if FP16:
            bits = 0x64106410 - zero * 0x00010001
        else:
            bits = 0x43104310 - zero * 0x00010001
    return bits[:, None]


@jit
def unpack_pairs(
    words,
    shift,
    bits,
    OTHER: tl.constexpr,
    LESS: tl.constexpr,
    FP16: tl.constexpr,
    OPERAND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WORDS: tl.constexpr,
):
    """``words[BLOCK_N, WORDS]`` int32 -> the numbers of the columns at ``shift``, ``[BLOCK_N, 2 WORDS]``.

    LESS is subtracted; FP16, or else bf16; OPERAND: see ``kernels.matmul_tiles``.
    """
    codes = (words >> shift) & 0x000F000F
    if OTHER == "zeros":
        pairs = codes + bits
    elif FP16:
        pairs = codes | 0x64006400
    else:
        pairs = codes | 0x43004300
    low, high = pairs.to(tl.int16), (pairs >> 16).to(tl.int16)
    if FP16:
        numbers = tl.join(low.to(tl.float16, bitcast=True), high.to(tl.float16, bitcast=True))
    else:
        numbers = tl.join(low.to(tl.bfloat16, bitcast=True), high.to(tl.bfloat16, bitcast=True))
    numbers = numbers.to(OPERAND)
    if LESS > 0:
        numbers = numbers - LESS
    return numbers.reshape(BLOCK_N, 2 * WORDS)  # a register's halves stay where they are


def unpacking(weight: W4Weight, dtype: torch.dtype) -> dict[str, Any]:
    """What the kernels are told of a weight that x of ``dtype`` meets."""
    fp16 = dtype == torch.float16
    other = "zeros" if weight.zeros is not None else "minima" if weight.minima is not None else ""
    return {
        "OTHER": other,
        "FP16": fp16,
        "BASE": 1024.0 if fp16 else 128.0,
        "OPERAND": operand(dtype),
        "WORDS": weight.words,
        "SHIFTS": shifts_of(weight),
    }


def shifts_of(weight: W4Weight) -> int:
    """How many shifts of a word, 2 * words columns each, a group spans: 1, 2, or 8 for a whole row."""
    return 8 if weight.scales.shape[0] == 1 else weight.group // (2 * weight.words)


def other_of(weight: W4Weight) -> torch.Tensor:
    """What a group has beside its scale; its scale if that is all."""
    if weight.zeros is not None:
        return weight.zeros
    return weight.minima if weight.minima is not None else weight.scales
