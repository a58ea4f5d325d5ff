"""Recorded requests as prompts: who came when, how much was read and written, which beginnings were shared.

Reads the format of Mooncake's traces (github.com/kvcache-ai/Mooncake, FAST25-release/traces): a JSON object a
line with ``timestamp`` in milliseconds, ``input_length``, ``output_length`` and ``hash_ids``, one for each
block of the prompt. Equal ids are equal tokens after equal beginnings. Knows nothing of servers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FIRST, LAST = 1_000, 40_000  # token ids that are drawn: ordinary ones of the demo model


@dataclass(frozen=True, slots=True)
class Row:
    """``at`` is in seconds from the beginning of the trace."""

    at: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]

    def prompt(self, block: int) -> list[int]:
        """Tokens that share with other rows exactly what the ids say."""
        assert len(self.hash_ids) == -(-self.input_length // block), "the trace has blocks of another size"
        tokens = [token for name in self.hash_ids for token in _tokens(name, block)]
        return tokens[: self.input_length]

    @property
    def conversation(self) -> tuple[int, ...]:
        """What its turns have in common: the block that all begin with, and the next."""
        return self.hash_ids[:2]


def read(path: Path) -> list[Row]:
    rows = []
    for line in path.read_text().splitlines():
        told = json.loads(line)
        ids = tuple(told["hash_ids"])
        rows.append(Row(told["timestamp"] / 1000, told["input_length"], max(1, told["output_length"]), ids))
    return rows


def every(rows: Iterable[Row], count: int) -> list[Row]:
    """Each ``count``-th conversation, whole: so the share that can be found again stays about the same."""
    numbers: dict[tuple[int, ...], int] = {}
    return [row for row in rows if numbers.setdefault(row.conversation, len(numbers)) % count == 0]


def reusable(rows: Iterable[Row], block: int) -> float:
    """The share of tokens that one cache without end would find."""
    seen: set[int] = set()
    found = total = 0
    for row in rows:
        total += row.input_length
        found += min(_leading(row.hash_ids, seen) * block, row.input_length - 1)
        seen.update(row.hash_ids)
    return found / total


def _leading(ids: Iterable[int], seen: set[int]) -> int:
    count = 0
    for name in ids:
        if name not in seen:
            break
        count += 1
    return count


def _tokens(name: int, block: int) -> Iterator[int]:
    draw = random.Random(name)
    return (draw.randrange(FIRST, LAST) for _ in range(block))
