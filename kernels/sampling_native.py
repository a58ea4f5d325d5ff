"""The sampler in C++ (``kernels/native/sample.h``), through ctypes: all rows of a step in one call.

Gives to the bit what numpy gives with ``kernels.sampling``. Knows addresses of rows, whose owner keeps them;
knows no request.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from kernels import native_library as native

_ROW = np.dtype(
    [("logits", "u8"), ("heat", "f8"), ("top_p", "f8"), ("top_k", "i8"), ("least", "i8"), ("seed", "u8"),
     ("position", "u8"), ("first", "i8"), ("count", "i8")]
)  # fmt: skip
_SCORE = np.dtype([("logits", "u8"), ("k", "i8"), ("ids", "u8"), ("best", "f8"), ("mass", "i8")])
_LOW_64 = (1 << 64) - 1


class Row(NamedTuple):
    """``logits`` is the address of float32 [vocab]; ``heat`` 1 / temperature, or 0 for the largest logit."""

    logits: int
    heat: float
    top_p: float
    top_k: int
    least: int
    seed: int
    position: int
    choices: Sequence[int]


class Score(NamedTuple):
    """The largest logit, the sum of all weights at temperature 1, and the ids of the most likely tokens, most
    likely first. The sum is 0 where the row is not finite."""

    best: float
    mass: int
    ids: list[int]


@cache
def _library() -> Any:
    library = native._library()
    library.pw_sample.argtypes = [c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p]
    library.pw_score.argtypes = [c_void_p, c_void_p, c_int64, c_int64]
    library.pw_sample.restype = library.pw_score.restype = None
    return library


def sample_rows(threads: native.Threads | None, rows: Sequence[Row], vocab: int) -> list[list[int]]:
    """The tokens of each row's choices; all -1 for a row with NaN or +inf, or nothing but -inf.

    In the caller's thread if there are no ``threads``, or too little to do.
    """
    choices: list[int] = []
    packed = []
    for row in rows:
        packed.append((*row[:5], row.seed & _LOW_64, row.position, len(choices), len(row.choices)))
        choices += row.choices
    array, wanted = np.array(packed, _ROW), np.array(choices, np.int64)
    tokens = np.empty_like(wanted)
    _library().pw_sample(_handle(threads), _at(array), len(rows), vocab, _at(wanted), _at(tokens))
    found = iter(tokens.tolist())
    return [[next(found) for _ in row.choices] for row in rows]


def score_rows(threads: native.Threads | None, rows: Sequence[tuple[int, int]], vocab: int) -> list[Score]:
    """For each (address of float32 [vocab], k), k at most ``vocab``, its Score with k ids."""
    ids = np.empty((len(rows), max((k for _, k in rows), default=0)), np.int64)
    array = np.zeros(len(rows), _SCORE)
    array["logits"], array["k"] = [address for address, _ in rows], [k for _, k in rows]
    array["ids"] = _at(ids) + ids.shape[1] * ids.itemsize * np.arange(len(rows), dtype=np.uint64)
    _library().pw_score(_handle(threads), _at(array), len(rows), vocab)
    found = zip(array["best"].tolist(), array["mass"].tolist(), ids.tolist(), rows, strict=True)
    return [Score(best, mass, top[:k] if mass else []) for best, mass, top, (_, k) in found]


def _handle(threads: native.Threads | None) -> int | None:
    return None if threads is None else threads.handle


def _at(array: np.ndarray[Any, Any]) -> int:
    return array.ctypes.data
