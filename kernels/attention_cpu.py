"""Paged attention on the CPU, in which a row's bits depend on that row alone.

Keys are cut into blocks of ``BLOCK`` tokens at fixed absolute positions. Each (row, block) pair gives a
partial sum of weights and of weighted values; the row's maximum is exact in any order, and the partial sums
are added one block after another from the first. A block that a row may not see adds an exact zero, so it
does not matter how many blocks a row is computed with, how the prompt was cut into chunks, or who else is
in the batch. This is the split-KV of flash-decoding (Dao et al. 2023) with a split that never moves.

Knows groupings of rows and pages; knows no model and no step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

from kernels.attention_meta import AttentionMeta
from kernels.row_tile import ROW_TILES, smallest_row_tile

BLOCK = 128  # keys in one partial sum: changing it changes the bits of every result
ROWS = 64  # query rows of a chunk computed together
GATHERED = 4096  # tokens of KV copied out of the pages at once, unless one sequence alone has more


@dataclass(slots=True)
class Tile:
    """S sequences x R query rows against the same number of key blocks, [first, last) of their group's."""

    rows: slice | torch.Tensor  # S * R rows of q and out
    first: int
    last: int
    masked: int  # blocks from here on hold a key that some row may not see
    mask: torch.Tensor  # [S, last - masked, M, BLOCK] bool, True: may not see; M = R * group, padded


@dataclass(slots=True)
class Group:
    """Sequences whose KV is copied out of the pages together, and the tiles that read the copy."""

    slots: torch.Tensor  # [S * blocks * BLOCK] int64
    sequences: int
    tiles: list[Tile]


def attend(
    q: torch.Tensor, kv_layer: torch.Tensor, meta: AttentionMeta, scale: float, window: int | None
) -> torch.Tensor:
    """``q[T, Hq, D]``, ``kv_layer[2, pages, page_size, Hkv, D]`` -> ``[T, Hq, D]``; all sums in fp32."""
    kv_heads, head_dim = kv_layer.shape[3:]
    heads_per_kv, multiple = q.shape[1] // kv_heads, row_multiple(head_dim, torch.get_num_threads())
    plan = meta.once(
        (window, heads_per_kv, multiple), lambda: plan_groups(meta, window, heads_per_kv, multiple)
    )
    out = torch.empty(q.shape, dtype=q.dtype)
    keys, values = kv_layer.view(2, -1, kv_heads * head_dim)
    for group in plan:
        shape = (group.sequences, -1, BLOCK, kv_heads, head_dim)
        # embedding() copies rows about twice as fast as index_select()
        k = F.embedding(group.slots, keys).float().view(shape)
        v = F.embedding(group.slots, values).float().view(shape)
        for tile in group.tiles:
            rows = q[tile.rows].float() * scale
            blocks = slice(tile.first, tile.last)
            out[tile.rows] = _attend_tile(rows, k[:, blocks], v[:, blocks], tile, multiple).to(q.dtype)
    return out


@cache
def row_multiple(head_dim: int, threads: int) -> int:
    """Rows of a tile's two matmuls are padded to a multiple of this; where none is exact, to the largest."""
    generator = torch.Generator().manual_seed(1)
    k = torch.randn(2, BLOCK, head_dim, generator=generator)

    def both(rows: torch.Tensor) -> torch.Tensor:
        scores = torch.bmm(rows.expand(2, -1, -1), k.transpose(1, 2))
        return torch.bmm(scores, k).transpose(0, 1)

    return smallest_row_tile(both, head_dim) or ROW_TILES[-1]


def plan_groups(meta: AttentionMeta, window: int | None, heads_per_kv: int, multiple: int) -> list[Group]:
    """Sort the step's sequences into groups: each chunk alone, decode rows by their number of blocks."""
    planner = _Planner(meta, window, heads_per_kv, multiple)
    groups: list[Group] = []
    decode: dict[int, list[int]] = {}
    for s, context in enumerate(meta.context_lens):
        if meta.query_starts[s + 1] - meta.query_starts[s] > 1:
            groups.append(planner.chunk(s))
        else:
            decode.setdefault(_bucket(len(planner.blocks(context - 1, context))), []).append(s)
    for blocks, members in sorted(decode.items()):
        most = max(1, GATHERED // (blocks * BLOCK))
        groups += [planner.decode(members[i : i + most], blocks) for i in range(0, len(members), most)]
    return groups


def _bucket(blocks: int) -> int:
    """Round up to 1, 2, 3, 4, 6, 8, 12, 16, ...: few groups, at most half of the keys in vain."""
    power = 1 << (blocks - 1).bit_length()
    return power * 3 // 4 if power >= 4 and blocks <= power * 3 // 4 else power


@dataclass(frozen=True, slots=True)
class _Planner:
    meta: AttentionMeta
    window: int | None
    heads_per_kv: int
    multiple: int

    def blocks(self, first_row: int, end: int) -> range:
        """Key blocks that the rows at positions [first_row, end) see."""
        oldest = 0 if self.window is None else max(0, first_row - self.window + 1)
        return range(oldest // BLOCK, -(-end // BLOCK))

    def slots(self, sequences: list[int], keys: torch.Tensor) -> torch.Tensor:
        """Slots of ``keys[S, n]``. Past a context its last token stands again: never another's memory."""
        page_size, contexts = self.meta.page_size, torch.tensor(self.meta.context_lens)[sequences]
        keys = keys.minimum(contexts[:, None] - 1)
        pages = self.meta.page_tables[sequences].gather(1, keys // page_size)
        return (pages * page_size + keys % page_size).flatten()

    def mask(self, rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Positions rows[S, R], keys[S, n] -> [S, n / BLOCK, M, BLOCK], True where a row may not see."""
        unseen = keys[:, None, :] > rows[:, :, None]  # [S, R, n]
        if self.window is not None:
            unseen |= keys[:, None, :] <= rows[:, :, None] - self.window
        unseen = unseen.repeat_interleave(self.heads_per_kv, dim=1)
        unseen = F.pad(unseen, (0, 0, 0, -unseen.shape[1] % self.multiple))
        return unseen.view(*unseen.shape[:2], -1, BLOCK).transpose(1, 2).contiguous()

    def chunk(self, sequence: int) -> Group:
        """All rows of one sequence, ``ROWS`` to a tile; a tile stops at its last row's position."""
        start, stop = self.meta.query_starts[sequence : sequence + 2]
        context = self.meta.context_lens[sequence]
        origin = context - stop  # position of row r is origin + r
        held = self.blocks(origin + start, context)
        tiles = []
        for first in range(start, stop, ROWS):
            last = min(first + ROWS, stop)
            seen = self.blocks(origin + first, origin + last)
            masked = seen.start if self.window else (origin + first + 1) // BLOCK
            mask = self.mask(
                torch.arange(first, last)[None] + origin, _tokens(range(masked, seen.stop))[None]
            )
            bounds = (seen.start - held.start, seen.stop - held.start, masked - held.start)
            tiles.append(Tile(slice(first, last), *bounds, mask))
        return Group(self.slots([sequence], _tokens(held)[None]), 1, tiles)

    def decode(self, sequences: list[int], blocks: int) -> Group:
        """One row of each sequence against the same number of blocks, from where its own window begins."""
        contexts = [self.meta.context_lens[s] for s in sequences]
        starts = torch.tensor([self.blocks(c - 1, c).start for c in contexts])
        keys = starts[:, None] * BLOCK + _tokens(range(blocks))
        masked = 0 if self.window else min(contexts) // BLOCK
        mask = self.mask(torch.tensor(contexts)[:, None] - 1, keys[:, masked * BLOCK :])
        rows = torch.tensor([self.meta.query_starts[s] for s in sequences])
        return Group(self.slots(sequences, keys), len(sequences), [Tile(rows, 0, blocks, masked, mask)])


def _tokens(blocks: range) -> torch.Tensor:
    """Positions of the blocks' keys."""
    return torch.arange(blocks.start * BLOCK, blocks.stop * BLOCK)


def _attend_tile(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tile: Tile, multiple: int
) -> torch.Tensor:
    """q[S * R, Hq, D], k and v [S, B, BLOCK, Hkv, D] -> [S * R, Hq, D]."""
    sequences, blocks, _, kv_heads, dim = k.shape
    q = q.view(sequences, -1, kv_heads, q.shape[1] // kv_heads, dim)
    rows, heads_per_kv = q.shape[1], q.shape[3]
    # The query heads that share a KV head are rows of one matmul, with B copies of them for the B blocks.
    q = q.permute(2, 0, 1, 3, 4).flatten(2, 3)
    q = F.pad(q, (0, 0, 0, -q.shape[2] % multiple))
    m = q.shape[2]
    q = q[:, :, None].expand(-1, -1, blocks, -1, -1).flatten(1, 2)  # [Hkv, S * B, M, D]
    weights, parts = q.new_empty(*q.shape[:3], BLOCK), q.new_empty(q.shape)
    for h in range(kv_heads):
        torch.bmm(q[h], k[..., h, :].flatten(0, 1).transpose(1, 2), out=weights[h])
    weights = weights.view(kv_heads, sequences, blocks, m, BLOCK)
    weights[:, :, tile.masked - tile.first :].masked_fill_(tile.mask, float("-inf"))
    weights.sub_(weights.amax(-1).amax(2)[:, :, None, :, None]).exp_()
    for h in range(kv_heads):
        torch.bmm(weights[h].flatten(0, 1), v[..., h, :].flatten(0, 1), out=parts[h])
    total = _sum_in_order(parts.view(kv_heads, sequences, blocks, m, dim))
    total /= _sum_in_order(weights.sum(-1))[..., None]
    total = total[:, :, : rows * heads_per_kv].view(kv_heads, sequences, rows, heads_per_kv, dim)
    return total.permute(1, 2, 0, 3, 4).reshape(sequences * rows, -1, dim)


def _sum_in_order(parts: torch.Tensor) -> torch.Tensor:
    """Sum over dim 2, first to last, from +0: a trailing or leading zero block changes no bit."""
    total = torch.zeros_like(parts[:, :, 0])
    for b in range(parts.shape[2]):
        total += parts[:, :, b]
    return total
