"""Rotary tables: cos and sin for every position, with the scaling that the config asks for.

Knows frequencies; knows no torch and no kernel. It holds float32 where the reference implementations do, so
that the table agrees with theirs; but ``pow``, ``cos`` and ``sin`` are taken in float64 and then rounded,
so that it is the same on every host: in float32 their last bit depends on vector units and on how threads
split the work.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagewire.model_config import ModelConfig
from pagewire.rope_config import RopeScaling

Floats = NDArray[np.float32]
_ROWS_AT_ONCE = 8192


class RopeTable(NamedTuple):
    cos: Floats  # [positions, head_dim / 2]
    sin: Floats  # [positions, head_dim / 2]


def rope_table(config: ModelConfig, positions: int) -> RopeTable:
    frequencies, factor = inverse_frequencies(config)
    table = RopeTable(*(np.empty((positions, frequencies.size), np.float32) for _ in range(2)))
    for start in range(0, positions, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, positions))
        angles = (
            np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] * frequencies
        )  # float32, as published
        table.cos[rows] = np.cos(angles.astype(np.float64))
        table.sin[rows] = np.sin(angles.astype(np.float64))
    if factor != 1.0:
        table.cos[...] *= np.float32(factor)
        table.sin[...] *= np.float32(factor)
    return table


def inverse_frequencies(config: ModelConfig) -> tuple[Floats, float]:
    """Radians a position for each pair of values, [head_dim / 2], and the factor on cos and sin."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    periods = np.power(np.float64(config.rope_theta), exponents.astype(np.float64)).astype(np.float32)
    base: Floats = np.reciprocal(periods)
    rope = config.rope
    if rope.kind == "default":
        return base, 1.0
    if rope.kind == "linear":
        return np.divide(base, rope.factor, dtype=np.float32), 1.0
    if rope.kind == "factors":
        return np.divide(base, rope.factors, dtype=np.float32), 1.0
    if rope.kind == "llama3":
        return _llama3(base, rope), 1.0
    assert rope.kind == "yarn"
    return _yarn(periods, base, config), _yarn_attention_factor(rope)


def _llama3(base: Floats, rope: RopeScaling) -> Floats:
    """Llama 3.1: long waves are divided by ``factor``, short ones kept, those between blended.

    Source: https://github.com/meta-llama/llama-models, ``apply_scaling``.
    """
    original, low, high = rope.original_max_position_embeddings, rope.low_freq_factor, rope.high_freq_factor
    waves = np.reciprocal(base) * (2 * math.pi)  # positions a turn
    kept = np.clip((np.reciprocal(waves) * original - low) / (high - low), 0.0, 1.0)
    return _float32((1 - kept) * base / rope.factor + kept * base)


def _yarn(periods: Floats, base: Floats, config: ModelConfig) -> Floats:
    """YaRN, "NTK-by-parts": https://arxiv.org/abs/2309.00071, section 3.2."""
    rope, dim = config.rope, config.head_dim

    def pair_that_turns(times: float) -> float:
        wave = rope.original_max_position_embeddings / (times * 2 * math.pi)
        return dim * math.log(wave) / (2 * math.log(config.rope_theta))

    low, high = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    kept = 1 - np.clip((np.arange(dim // 2, dtype=np.float32) - low) / width, 0.0, 1.0)
    return _float32(1 / (rope.factor * periods) * (1 - kept) + base * kept)


def _float32(values: NDArray[np.floating[Any]]) -> Floats:
    assert values.dtype == np.float32  # every step above was rounded to it
    return values.astype(np.float32, copy=False)


def _yarn_attention_factor(rope: RopeScaling) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _temperature(rope.factor, rope.mscale) / _temperature(rope.factor, rope.mscale_all_dim)
    return _temperature(rope.factor, 1.0)


def _temperature(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
