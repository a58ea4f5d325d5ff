"""GGUF's formats of 32 numbers to a scale, as codes and scales of their own: nothing is rounded.

Knows the bytes of Q4_0, Q4_1 and Q8_0 (ggml's block_q4_0, block_q4_1, block_q8_0); knows no file or name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

BITS: dict[int, int] = {Type.Q4_0: 4, Type.Q4_1: 4, Type.Q8_0: 8}
_BLOCK = {
    Type.Q4_0: np.dtype([("scale", "<f2"), ("codes", "u1", 16)]),
    Type.Q4_1: np.dtype([("scale", "<f2"), ("offset", "<f2"), ("codes", "u1", 16)]),
    Type.Q8_0: np.dtype([("scale", "<f2"), ("codes", "u1", 32)]),
}
_Q4_0_ZERO = 8  # the code that stands for 0


def read(kind: Type, raw: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Codes uint8 [N, K], scales and offsets float16 [N, K / 32], of ``raw`` [N, bytes of a row].

    Offsets are None for 8 bits, whose codes are int8 seen as bytes.
    """
    blocks = raw.view(_BLOCK[kind])  # [N, K / 32]
    scales = blocks["scale"].copy()
    if kind == Type.Q8_0:
        return _rows(blocks["codes"]), scales, None
    both = blocks["codes"]
    codes = _rows(np.concatenate([both & 15, both >> 4], axis=-1))
    if kind == Type.Q4_0:
        return codes, scales, -_Q4_0_ZERO * scales  # a power of two: exact
    return codes, scales, blocks["offset"].copy()


def _rows(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(codes.reshape(len(codes), -1))
