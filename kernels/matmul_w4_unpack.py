"""Four-bit codes in registers, made numbers without a conversion instruction.

A code set into the low bits of a bf16 whose exponent says 128 is the number 128 + code (1024 + code in fp16),
exactly: two codes a shift and one logical instruction on one register, as FasterTransformer does it (Kim
2022). Zeros cost next to nothing: 16 - zero is added with those bits, while all are whole numbers. What is
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
def scale_of(word):
    return word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@jit
def minimum_of(word):
    return (word >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@jit
def bits_of(word, MINIMA: tl.constexpr, FP16: tl.constexpr):
    """What makes a code a number, for each n: 1024 or 128 in both halves of a register; and 16 - zero on top.

    No carry, as 0 <= 16 - zero + code < 32. With minima zero is 8, here and in ``LESS``.
    """
    zero = word >> 16
    if MINIMA:
        zero = zero * 0 + 8
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
    LESS: tl.constexpr,
    FP16: tl.constexpr,
    OPERAND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WORDS: tl.constexpr,
):
    """``words[BLOCK_N, WORDS]`` int32 -> the numbers of the columns at ``shift``, ``[BLOCK_N, 2 WORDS]``.

    LESS is subtracted; FP16, or else bf16; OPERAND: see ``kernels.matmul_tiles``.
    """
    pairs = ((words >> shift) & 0x000F000F) + bits
    low, high = pairs.to(tl.int16), (pairs >> 16).to(tl.int16)
    if FP16:
        numbers = tl.join(low.to(tl.float16, bitcast=True), high.to(tl.float16, bitcast=True))
    else:
        numbers = tl.join(low.to(tl.bfloat16, bitcast=True), high.to(tl.bfloat16, bitcast=True))
    numbers = numbers.to(OPERAND) - LESS
    return numbers.reshape(BLOCK_N, 2 * WORDS)  # a register's halves stay where they are


def unpacking(weight: W4Weight, dtype: torch.dtype) -> dict[str, Any]:
    """What the kernels are told of a weight that x of ``dtype`` meets."""
    fp16 = dtype == torch.float16
    return {
        "MINIMA": weight.minima,
        "FP16": fp16,
        "LESS": 1040.0 if fp16 else 144.0,
        "OPERAND": operand(dtype),
        "WORDS": weight.words,
        "SHIFTS": shifts_of(weight),
    }


def shifts_of(weight: W4Weight) -> int:
    """How many shifts of a word, 2 * words columns each, a group spans: 1, 2, or 8 for a whole row."""
    return 8 if weight.groups.shape[0] == 1 else weight.group // (2 * weight.words)
