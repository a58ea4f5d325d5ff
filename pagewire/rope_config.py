"""How a model's rotary positions are scaled, as its config says it.

Knows the spellings of transformers 4 (``rope_theta``, ``rope_scaling``) and 5 (``rope_parameters``);
computes no frequency (``engine.rope_scaling`` does) and loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagewire.errors import ModelError, UnsupportedModel

ROPE_KINDS = ("default", "linear", "llama3", "yarn", "factors")
_NUMBERS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How positions beyond the original training length are squeezed.

    Numbers that ``kind`` does not use keep their defaults.
    ``attention_factor`` multiplies cos and sin (YaRN); None means what YaRN's paper gives for ``factor``.
    ``factors``: one divisor a frequency, as GGUF stores Llama 3.1's scaling.
    """

    kind: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True
    factors: tuple[float, ...] = ()


def parse_rope(config: Mapping[str, Any], max_positions: int) -> tuple[float, RopeScaling]:
    """Base and scaling out of a config.json. Raises UnsupportedModel for a kind that is not in ROPE_KINDS."""
    given: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in ROPE_KINDS or any(isinstance(value, dict) for value in given.values()):
        known = ", ".join(ROPE_KINDS)
        raise UnsupportedModel(f"the rope scaling {kind!r} is not supported; pagewire knows {known}")
    if given.get("partial_rotary_factor") not in (None, 1):
        raise UnsupportedModel("rotary embeddings over a part of each head are not supported")
    theta = float(given.get("rope_theta") or config.get("rope_theta") or 10000.0)
    return theta, RopeScaling() if kind == "default" else _scaling(kind, given, config, max_positions)


def _scaling(
    kind: str, given: Mapping[str, Any], config: Mapping[str, Any], max_positions: int
) -> RopeScaling:
    original = config.get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
    numbers = {key: float(given[key]) for key in _NUMBERS if given.get(key) is not None}
    if kind == "yarn" and original:
        numbers.setdefault("factor", max_positions / original)
    if kind != "factors" and "factor" not in numbers:
        raise ModelError(f"the rope scaling {kind!r} has no factor")
    return RopeScaling(
        kind=kind,
        original_max_position_embeddings=original or max_positions,
        truncate=bool(given.get("truncate", True)),
        factors=tuple(given.get("factors", ())),
        **numbers,
    )
