"""Weights of 4 bits a number in groups that share a scale: one layout for our kernels, and what becomes it.

The layout: the codes 0..15 of a weight [N, K] lie in words of 32 bits, ``codes[blocks, N, words]``. A block
is 8 * words consecutive columns of K. Bits 4p .. 4p+3 of word c hold column ``2 (words p + c)`` of the block
and bits 4p+16 .. 4p+19 the column after it, p = 0..3: one shift and one mask leave two neighbouring columns
in the two halves of a register, where a tensor core wants them, and a tile of N is one contiguous piece of
memory. 32 words, so that a shift yields 64 columns; 16 where a group is 32 columns: a shift never spans two.
K is padded to a multiple of 256 with codes of 8.

Knows bits; multiplies nothing. The foreign layouts are those of AutoGPTQ (Frantar 2022), AutoAWQ (Lin 2023)
and GGML's Q4_0 and Q4_1, each written down from its description.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

GROUPS = (32, 64, 128)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of eight that nibble 0, 1, ... of a word holds
GGML_BLOCK = 32


@dataclass(frozen=True)
class W4Weight:
    """``weight[n, k] = scale * (code - zero)`` or ``scale * code + minimum``, the group's of n and k.

    A group has a word: its scale in fp16 in the lower half; above it the zero as a whole number, or the
    minimum in fp16. One load brings both. ``columns``: column k here meets column ``columns[k]`` of x.
    """

    codes: torch.Tensor  # [blocks, N, words] int32
    groups: torch.Tensor  # [groups, N] int32; past K's last group with scales of 0
    minima: bool
    group: int  # columns of a group: 32, 64, 128 or all
    shape: tuple[int, int]  # N, K
    columns: torch.Tensor | None = None  # [K] int64

    @property
    def words(self) -> int:
        return self.codes.shape[2]

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.groups.nbytes

    def to(self, device: torch.device | str) -> W4Weight:
        columns = None if self.columns is None else self.columns.to(device)
        return replace(self, codes=self.codes.to(device), groups=self.groups.to(device), columns=columns)


def pack(
    codes: torch.Tensor,
    scales: torch.Tensor,
    group: int = -1,
    zeros: torch.Tensor | None = None,
    minima: torch.Tensor | None = None,
    columns: torch.Tensor | None = None,
) -> W4Weight:
    """From ``codes[N, K]`` uint8 and ``scales[groups, N]`` of ``group`` columns each; -1: of all.

    ``zeros[groups, N]`` 0..16, by default 8, or ``minima[groups, N]``. Scales and minima that fp16 does not
    hold exactly, as of bf16 they might be, are rounded.
    """
    n, k = codes.shape
    group = k if group == -1 else group
    assert scales.half().isfinite().all(), "scales beyond fp16"
    assert group in (*GROUPS, k), f"groups of {group} columns, neither all {k} nor one of {GROUPS}"
    words = 16 if group == 32 else 32
    blocks = -(-k // 256) * (32 // words)  # columns up to a multiple of 256
    padded = F.pad(codes, (0, blocks * 8 * words - k), value=8).view(n, blocks, 4, words, 2)
    packed = torch.zeros(n, blocks, words, dtype=torch.int32, device=codes.device)
    for p in range(4):
        for half in range(2):
            packed |= padded[:, :, p, :, half].to(torch.int32) << (4 * p + 16 * half)
    words_of_groups = pack_groups(scales, zeros, minima)
    assert words_of_groups.shape == (-(-k // group), n), (words_of_groups.shape, group, codes.shape)
    held = 1 if group == k else blocks * 8 * words // group
    filled = F.pad(words_of_groups, (0, 0, 0, held - words_of_groups.shape[0]), value=8 << 16)
    return W4Weight(
        packed.transpose(0, 1).contiguous(), filled.contiguous(), minima is not None, group, (n, k), columns
    )


def pack_groups(
    scales: torch.Tensor, zeros: torch.Tensor | None = None, minima: torch.Tensor | None = None
) -> torch.Tensor:
    """The words of groups."""
    assert zeros is None or minima is None
    low = _bits(scales)
    if minima is not None:
        high = _bits(minima)
    else:
        high = torch.full_like(low, 8) if zeros is None else zeros.to(torch.int32)
    assert high.shape == low.shape, (high.shape, low.shape)
    return high << 16 | low


def _bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.half().contiguous().view(torch.int16).to(torch.int32) & 0xFFFF


def _numbers(bits: torch.Tensor) -> torch.Tensor:
    return bits.to(torch.int16).view(torch.float16).float()


def stacked(weights: Sequence[W4Weight]) -> W4Weight:
    """One weight of all their rows, as of q, k and v."""
    first = weights[0]
    for each in weights:
        assert (each.group, each.shape[1], each.minima) == (first.group, first.shape[1], first.minima)
        same = each.columns is first.columns
        if each.columns is not None and first.columns is not None:
            same = torch.equal(each.columns, first.columns)
        assert same, "their columns come in different orders"
    codes = torch.cat([each.codes for each in weights], 1)
    groups = torch.cat([each.groups for each in weights], 1)
    return replace(first, codes=codes, groups=groups, shape=(codes.shape[1], first.shape[1]))


def unpack(weight: W4Weight) -> torch.Tensor:
    """The codes ``[N, K]`` uint8 that ``pack`` was given."""
    n, k = weight.shape
    parts = [weight.codes >> (4 * p + 16 * half) & 15 for p in range(4) for half in range(2)]
    codes = torch.stack(parts, -1).to(torch.uint8)  # [blocks, N, words, p and half]
    codes = codes.view(*weight.codes.shape, 4, 2).permute(1, 0, 3, 2, 4)
    return codes.reshape(n, -1)[:, :k].contiguous()


def dequantise(weight: W4Weight) -> torch.Tensor:
    """The weight ``[N, K]`` in fp32, its columns in the order of x's.

    Exact for scales of 16 bits, save that adding minima rounds. Reads N K / 2 bytes and the groups' numbers,
    writes N K numbers; each of the steps below does so too.
    """
    (_, k), codes = weight.shape, unpack(weight).float()
    spread = weight.groups.repeat_interleave(weight.group, 0)[:k].T
    scales, high = _numbers(spread.contiguous()), spread >> 16
    wide = scales * codes + _numbers(high) if weight.minima else scales * (codes - high)
    if weight.columns is None:
        return wide.contiguous()
    return torch.empty_like(wide).index_copy_(1, weight.columns, wide)


def from_gptq(
    qweight: torch.Tensor,
    qzeros: torch.Tensor | None,
    scales: torch.Tensor,
    group: int,
    g_idx: torch.Tensor | None = None,
    *,
    zeros_less_one: bool = True,
) -> W4Weight:
    """``qweight[K/8, N]``, ``qzeros[groups, N/8]`` int32, ``scales[groups, N]``; ``g_idx[K]``: whose group.

    Eight consecutive k (or n, of zeros) share a word, the first in its lowest bits. The classic format keeps
    zeros less one; ``zeros_less_one=False`` is for "gptq_v2". Without qzeros the weight is symmetric. Where
    quantisation took the columns in another order ("act-order") g_idx is not sorted: then the columns of a
    group are brought together, and x's with them.
    """
    codes, columns = _nibbles(qweight.T), None  # [N, K]
    if g_idx is not None:
        ordered, by_group = torch.sort(g_idx, stable=True)
        size = codes.shape[1] if group == -1 else group
        regular = torch.arange(codes.shape[1], device=g_idx.device) // size
        assert torch.equal(ordered.long(), regular), f"groups that are not of {size} columns"
        if not torch.equal(g_idx, ordered):
            codes, columns = codes[:, by_group], by_group
    zeros = None
    if qzeros is not None:
        zeros = (_nibbles(qzeros) + int(zeros_less_one) & 15).to(torch.int8)
    return pack(codes, scales, group, zeros, columns=columns)


def from_awq(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, group: int) -> W4Weight:
    """``qweight[K, N/8]``, ``qzeros[groups, N/8]`` int32, ``scales[groups, N]``.

    The eight n of a word come in ``AWQ_ORDER``.
    """
    codes, zeros = _awq_columns(qweight), _awq_columns(qzeros)
    return pack(codes.T, scales, group, zeros.to(torch.int8))


def from_q4_0(blocks: torch.Tensor) -> W4Weight:
    """``blocks[N, bytes]`` uint8, 18 bytes for 32 columns: fp16 scale, 16 bytes of codes; code 8 is zero.

    Byte i holds column i in its low and column 16 + i in its high bits.
    """
    numbers, codes = _ggml(blocks, 1)
    return pack(codes, numbers[0], GGML_BLOCK)


def from_q4_1(blocks: torch.Tensor) -> W4Weight:
    """``blocks[N, bytes]`` uint8, 20 bytes for 32 columns: fp16 scale and minimum, codes as in Q4_0."""
    numbers, codes = _ggml(blocks, 2)
    return pack(codes, numbers[0], GGML_BLOCK, minima=numbers[1])


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    """``[R, C]`` int32 -> ``[R, 8 C]`` uint8, each word's lowest bits first."""
    split = [words >> shift & 15 for shift in range(0, 32, 4)]
    return torch.stack(split, -1).to(torch.uint8).flatten(1)


def _awq_columns(words: torch.Tensor) -> torch.Tensor:
    """``[R, N/8]`` int32 -> ``[R, N]`` uint8."""
    eights = _nibbles(words).view(words.shape[0], -1, 8)
    order = torch.tensor(AWQ_ORDER, device=words.device)
    return torch.empty_like(eights).index_copy_(2, order, eights).flatten(1)


def _ggml(blocks: torch.Tensor, numbers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``numbers`` fp16 of each block ``[numbers, groups, N]`` and the codes ``[N, K]``."""
    head = 2 * numbers
    split = blocks.view(blocks.shape[0], -1, head + GGML_BLOCK // 2)
    leading = split[:, :, :head].contiguous().view(torch.float16)
    codes = torch.cat((split[:, :, head:] & 15, split[:, :, head:] >> 4), -1)
    return leading.permute(2, 1, 0).contiguous(), codes.flatten(1)
