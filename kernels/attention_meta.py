"""What the layers of one step share about their rows and pages.

Knows row ranges, lengths and page numbers; knows no query, no key and no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch

Plan = TypeVar("Plan")


class KVScales(NamedTuple):
    """What the numbers of quantised pages are multiplied by.

    ``[2 (K, V), Hkv]`` or, for each token and head its own, ``[2, pages, page_size, Hkv]``; float32,
    contiguous, on the device of the pages.
    """

    values: torch.Tensor

    @property
    def per_token(self) -> bool:
        return self.values.dim() == 4


class OnDevice(NamedTuple):
    """Of a captured step: what the host does not know, and the bound that it does know."""

    context_lens: torch.Tensor  # [S] int32; 0: a sequence that stands for none
    most_tokens: int  # sum of context_lens at most
    query_starts: torch.Tensor | None = None  # [S + 1] int32; None: a row each


@dataclass(slots=True)
class AttentionMeta:
    """One step's sequences: made once by ``plan`` or ``captured``, read by every layer.

    Sequence s owns rows [query_starts[s], query_starts[s + 1]) of q, its newest: with n rows and context c,
    row i of them sits at position c - n + i. In a ``deterministic`` step on a GPU a row's bits do not depend
    on whether it came alone or in a chunk: single rows are chunks of one, and no other library takes a part.
    """

    query_starts: list[int]  # [S + 1]
    context_lens: list[int]  # [S] tokens whose KV is stored, those of this step too; of a captured step none
    page_tables: torch.Tensor  # [S, P] int64 (captured: int32); entries past a context are never read
    page_size: int
    deterministic: bool = False
    device: OnDevice | None = None  # of a captured step alone
    _plans: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def plan(
        cls,
        query_starts: list[int],
        context_lens: list[int],
        page_tables: torch.Tensor,
        page_size: int,
        deterministic: bool = False,
    ) -> AttentionMeta:
        rows = [stop - start for start, stop in pairwise(query_starts)]
        assert len(rows) == len(context_lens) == page_tables.shape[0], (query_starts, context_lens)
        assert all(0 < n <= c for n, c in zip(rows, context_lens, strict=True)), (query_starts, context_lens)
        assert max(context_lens, default=0) <= page_tables.shape[1] * page_size, (
            context_lens,
            page_tables.shape,
        )
        return cls(query_starts, context_lens, page_tables, page_size, deterministic)

    @classmethod
    def captured(
        cls,
        context_lens: torch.Tensor,
        page_tables: torch.Tensor,
        page_size: int,
        most_tokens: int,
        deterministic: bool = False,
    ) -> AttentionMeta:
        """B single rows whose ``context_lens[B]`` and ``page_tables[B, P]``, int32, are on the device.

        What is launched depends on the shapes and on ``most_tokens`` alone, so it may be captured in a graph
        and replayed with other contexts in the same tensors, as long as their sum is at most ``most_tokens``.
        The first layer of each kind launches what plans the work for all of its kind: make a new one each
        time that the step is run or captured, within the capture. A context of 0 gives a row of zeros.
        """
        rows = context_lens.shape[0]
        assert context_lens.dtype == page_tables.dtype == torch.int32, (context_lens.dtype, page_tables.dtype)
        assert page_tables.shape[0] == rows, (context_lens.shape, page_tables.shape)
        device = OnDevice(context_lens, most_tokens)
        return cls([*range(rows + 1)], [], page_tables, page_size, deterministic, device)

    @classmethod
    def captured_chunks(
        cls,
        rows: int,
        query_starts: torch.Tensor,
        context_lens: torch.Tensor,
        page_tables: torch.Tensor,
        page_size: int,
    ) -> AttentionMeta:
        """As ``captured``, of chunks: ``query_starts[S + 1]``, ``context_lens[S]``, ``page_tables[S, P]``.

        ``rows`` are q's; those from query_starts[S] on are nobody's, and come out as they please. The first
        layer of all launches what plans the work for all layers.
        """
        device = OnDevice(context_lens, 0, query_starts)
        assert query_starts.dtype == torch.int32, query_starts.dtype
        assert query_starts.shape[0] - 1 == context_lens.shape[0] == page_tables.shape[0], query_starts.shape
        return cls([0, rows], [], page_tables, page_size, device=device)

    def once(self, key: Hashable, make: Callable[[], Plan]) -> Plan:
        """What ``make`` gave for this key earlier in the step, or gives now, for all layers of the key."""
        if key not in self._plans:
            self._plans[key] = make()
        plan: Plan = self._plans[key]
        return plan

    def on_host(self) -> tuple[torch.Tensor, AttentionMeta]:
        """Of a captured step: the rows that have a context, [R] int64, and a plan of them alone."""
        assert self.device is not None
        lens, _, starts = self.device
        some = lens.nonzero().flatten()
        contexts, tables = lens[some].tolist(), self.page_tables[some].long()
        if starts is None:
            return some, AttentionMeta.plan([*range(len(contexts) + 1)], contexts, tables, self.page_size)
        bounds = starts[: len(contexts) + 1].tolist()
        return torch.arange(bounds[-1]), AttentionMeta.plan(bounds, contexts, tables, self.page_size)
