"""A checksum of bytes that lie in a device's memory, computed there: 64 bits that tell an accident.

    sum over i of mix(word i + (i + 1) * STEP), plus mix(bytes + ~0 * STEP)      (mod 2^64)

The words are 64 bits, little-endian, the last one filled up with zeros. ``mix`` is the finaliser of
splitmix64 (Steele, Lea, Flood 2014; constants of Stafford's "Mix13"): every bit of a word moves about half of
those of the result. A word's place goes into it, so words that change places show; the length does too. The
sum is in whole numbers, so it is the same in whatever order programs get to it. It finds accidents; it stops
nobody who forges. Knows bytes; not what they mean.

All of it is in int64, whose products and sums wrap as those of uint64 do: a logical shift to the right is an
arithmetic one and a mask.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import tuned
from kernels.backend import jit, tl, use_triton

STEP, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def checksum_into(slab: torch.Tensor, out: torch.Tensor) -> None:
    """The checksum of ``slab`` [n] uint8, which begins at 8 bytes, into ``out`` [1] int64, where it lies."""
    if use_triton(slab):
        checksum_triton(slab, out)
    else:
        out.view(torch.int64).fill_(_signed(checksum_numpy(slab.cpu().numpy())))


def unsigned(number: int) -> int:
    """What ``checksum_into`` wrote, as the number from 0 to 2^64 - 1 that it stands for."""
    return number & 0xFFFF_FFFF_FFFF_FFFF


def checksum_numpy(data: NDArray[np.uint8] | bytes | bytearray | memoryview) -> int:
    """The reference. Reads n bytes and takes about 10 operations a word of 8."""
    whole = np.frombuffer(data, np.uint8)
    words = np.zeros(-(-len(whole) // 8), np.uint64)
    words.view(np.uint8)[: len(whole)] = whole
    place = np.arange(1, len(words) + 1, dtype=np.uint64) * np.uint64(STEP)
    total = int(_mix(words + place).sum(dtype=np.uint64))
    return unsigned(total + int(_mix(np.array([unsigned(len(whole) - STEP)], np.uint64))[0]))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return x ^ (x >> np.uint64(31))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


@jit
def _mixed(x):
    """int64. The constants are those above, less 2^64."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@jit(do_not_specialize=["nbytes"], do_not_specialize_on_alignment=["out"])
def _checksum_kernel(words, tail, out, nbytes, WORDS: tl.constexpr):
    """A program adds what its words come to. The first one also adds the length, and the last, short word."""
    place = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    inside = place < nbytes // 8
    word = tl.load(words + place, mask=inside, other=0)
    total = tl.sum(tl.where(inside, _mixed(word + (place + 1) * -7046029254386353131), 0), 0)
    if tl.program_id(0) == 0:
        total += _mixed(tl.zeros((), tl.int64) + nbytes + 7046029254386353131)
        if nbytes % 8 != 0:
            i, whole = tl.arange(0, 8), (nbytes // 8).to(tl.int64)
            byte = tl.load(tail + whole * 8 + i, mask=i < nbytes % 8, other=0).to(tl.int64)
            last = tl.sum(byte << (8 * i).to(tl.int64), 0)
            total += _mixed(last + (whole + 1) * -7046029254386353131)
    tl.atomic_add(out, total, sem="relaxed")


def checksum_triton(slab: torch.Tensor, out: torch.Tensor) -> None:
    """A program takes 8 KiB, a thread four loads of 16 bytes: a frame of 2 MiB is some two programs an SM."""
    assert (slab.dtype, slab.stride()) == (torch.uint8, (1,)), (slab.dtype, slab.stride())
    assert slab.data_ptr() % 8 == 0, "a slab begins at a word"
    assert (out.dtype, out.shape) == (torch.int64, (1,)), (out.dtype, out.shape)
    nbytes = len(slab)
    assert nbytes < 1 << 31, nbytes
    use = tuned.config("slab_checksum", {}, {"WORDS": 1024, "num_warps": 4}, slab.device)
    words = slab[: nbytes // 8 * 8].view(torch.int64)
    out.zero_()
    grid = (max(1, -(-(nbytes // 8) // use["WORDS"])),)
    _checksum_kernel[grid](words, slab, out, nbytes, WORDS=use["WORDS"], num_warps=use["num_warps"])
