"""The header that says which nodes serve a request, and why those.

Knows generations; knows no HTTP beyond a name and a value.
"""

from __future__ import annotations

from router.generation import Generation
from router.placement import Pair

HEADER = "x-pagewire-served-by"
_MOST = 8  # prompts that are told of


def served_by(generation: Generation) -> dict[str, str]:
    """Of each prompt its last attempt so far: once there are tokens, the one that the last came from."""
    pairs = [list(member.dispatch.pairs.values())[-1:] for member in generation.members[:_MOST]]
    told = dict.fromkeys(_told(pair) for found in pairs for pair in found)
    return {HEADER: ", ".join(told)} if told else {}


def _told(pair: Pair) -> str:
    return f"prefill={pair.prefill.node}; decode={pair.decode.node}; why={pair.why}"
