"""The checksum of a slab, on the device and on the host: the same number, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from gpu_cases import DEVICE, poison
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_gpu import Launch

from kernels.slab_checksum import FIRST, SECOND, STEP, checksum_numpy, checksum_triton, unsigned

MASK = (1 << 64) - 1


def on_device(data: bytes | np.ndarray) -> int:
    """Of ``data`` in the middle of other memory."""
    data = np.frombuffer(data, np.uint8)
    memory = poison(len(data) + 32, dtype=torch.uint8)
    memory[16 : 16 + len(data)] = torch.from_numpy(data.copy()).to(DEVICE)
    out = poison(1, dtype=torch.int64) if DEVICE == "cuda" else torch.full((1,), -3)
    checksum_triton(memory[16 : 16 + len(data)], out)
    return unsigned(int(out))


def by_hand(data: bytes) -> int:
    """With Python's own whole numbers."""

    def mix(x: int) -> int:
        x &= MASK
        x = (x ^ x >> 30) * FIRST & MASK
        x = (x ^ x >> 27) * SECOND & MASK
        return x ^ x >> 31

    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    return (mix(len(data) - STEP) + sum(mix(word + (i + 1) * STEP) for i, word in enumerate(words))) & MASK


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 20_000), st.integers(0, 1 << 32))
def test_the_device_and_the_host_agree_to_the_bit(size: int, seed: int) -> None:
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()
    assert on_device(data) == checksum_numpy(data) == by_hand(data)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 15, 16, 8191, 8192, 8193, 8199, 8200, 16384])
@pytest.mark.parametrize("byte", [0, 0xFF])
def test_sizes_around_words_and_programs(size: int, byte: int) -> None:
    data = bytes([byte]) * size
    assert on_device(data) == checksum_numpy(data) == by_hand(data)


def test_bits_places_and_lengths_show() -> None:
    data = bytearray(np.random.default_rng(0).integers(0, 256, 8219, np.uint8).tobytes())
    whole, seen = on_device(data), set()
    for at in [*range(0, 8219, 331), 8217, 8218]:
        for bit in (0, 7):
            data[at] ^= 1 << bit
            seen.add(on_device(data))
            data[at] ^= 1 << bit
    assert len(seen) == 2 * 27
    swapped = data[8:16] + data[:8] + data[16:]
    others = {
        on_device(swapped),
        on_device(data + b"\0"),
        on_device(data[:-1]),
        on_device(data[8:] + data[:8]),
    }
    assert len(others | seen) == 4 + 2 * 27
    assert whole not in others | seen
    assert whole == on_device(data)


def launches() -> Iterator[Launch]:
    out = torch.zeros(1, dtype=torch.int64)
    for size in 1 << 14, (1 << 14) + 3:
        slab = torch.zeros(size, dtype=torch.uint8)
        yield Launch(f"slab_checksum {size}", lambda slab=slab: checksum_triton(slab, out))
