"""Sizes of memory as people write them: "512MiB", "1.5GB", "2g". Knows text and bytes only."""

from __future__ import annotations

import re

from pagewire.errors import ConfigError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes in ``text``. KiB, MiB, GiB, TiB count in 1024; KB, MB, GB, TB in 1000; a bare K, M, G, T in 1024.

    Raises ConfigError on anything else, and on a size that comes to nothing.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ConfigError(f"{text!r} is not a size; write for example 512MiB, 1.5GiB or 1000000000")
    decimal = match[4] and not match[3]
    size = int(float(match[1]) * (1000 if decimal else 1024) ** _POWER[match[2].lower()])
    if size <= 0:
        raise ConfigError(f"{text!r} is no memory at all")
    return size


def format_size(size: int) -> str:
    """``size`` bytes for people: the largest 1024-unit that leaves at least 1, with one decimal at most."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + " " + unit
