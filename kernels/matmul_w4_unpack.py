"""Four-bit codes in registers, made numbers without a conversion instruction.

A code set into the low bits of a bf16 whose exponent says 128 is the number 128 + code (1024 + code in fp16),
exactly: two codes a shift, a mask and an "or" on one register, as FasterTransformer does it (Kim 2022). What
is subtracted, 136 or 1032, leaves code - 8, exactly as well. Knows the layout of ``kernels.w4_layouts``.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from kernels.backend import jit, tl


@jit
def unpack_pairs(
    words, shift, FP16: tl.constexpr, OPERAND: tl.constexpr, BLOCK_N: tl.constexpr, WORDS: tl.constexpr
):
    """``words[BLOCK_N, WORDS]`` int32 -> code - 8 of the columns at ``shift``, ``[BLOCK_N, 2 WORDS]``.

    FP16, or else bf16; OPERAND: see ``kernels.matmul_tiles``.
    """
    if FP16:
        pairs = ((words >> shift) & 0x000F000F) | 0x64006400
        low = pairs.to(tl.int16).to(tl.float16, bitcast=True)
        high = (pairs >> 16).to(tl.int16).to(tl.float16, bitcast=True)
        numbers = tl.join(low, high) - 1032.0
    else:
        pairs = ((words >> shift) & 0x000F000F) | 0x43004300
        low = pairs.to(tl.int16).to(tl.bfloat16, bitcast=True).to(OPERAND)
        high = (pairs >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True).to(OPERAND)
        numbers = tl.join(low, high) - 136.0
    return numbers.reshape(BLOCK_N, 2 * WORDS)  # a register's halves stay where they are


@jit
def load_scales(scales, other, group, n, N, OTHER: tl.constexpr):
    """The group's scale and shift for each n in fp32: a weight is scale * (code - 8) + shift.

    OTHER: what ``other`` holds: nothing, zeros or minima.
    """
    at, inside = group * N + n, n < N
    scale = tl.load(scales + at, mask=inside, other=0.0).to(tl.float32)
    if OTHER == "zeros":
        shift = scale * (8.0 - tl.load(other + at, mask=inside, other=8).to(tl.float32))
    elif OTHER == "minima":
        shift = scale * 8.0 + tl.load(other + at, mask=inside, other=0.0).to(tl.float32)
    else:
        shift = scale * 0.0  # not used
    return scale, shift
