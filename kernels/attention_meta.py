"""What the layers of one step share about their rows and pages.

Knows row ranges, lengths and page numbers; knows no query, no key and no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import torch

Plan = TypeVar("Plan")


@dataclass(slots=True)
class AttentionMeta:
    """One step's sequences: made once by ``plan``, read by every layer.

    Sequence s owns rows [query_starts[s], query_starts[s + 1]) of q, its newest: with n rows and context c,
    row i of them sits at position c - n + i.
    """

    query_starts: list[int]  # [S + 1]
    context_lens: list[int]  # [S] tokens whose KV is stored, those of this step too
    page_tables: torch.Tensor  # [S, P] int64; entries past a context are never read
    page_size: int
    _plans: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def plan(
        cls, query_starts: list[int], context_lens: list[int], page_tables: torch.Tensor, page_size: int
    ) -> AttentionMeta:
        rows = [stop - start for start, stop in pairwise(query_starts)]
        assert len(rows) == len(context_lens) == page_tables.shape[0], (query_starts, context_lens)
        assert all(0 < n <= c for n, c in zip(rows, context_lens, strict=True)), (query_starts, context_lens)
        assert max(context_lens, default=0) <= page_tables.shape[1] * page_size, (
            context_lens,
            page_tables.shape,
        )
        return cls(query_starts, context_lens, page_tables, page_size)

    def once(self, key: Hashable, make: Callable[[], Plan]) -> Plan:
        """What ``make`` gave for this key earlier in the step, or gives now, for all layers of the key."""
        if key not in self._plans:
            self._plans[key] = make()
        plan: Plan = self._plans[key]
        return plan
