"""Rows of the embedding table, for tokens that the host knows and for those that only the device knows yet.

Where steps overlap, a step is laid out before the host has seen what the step before sampled: the id
``-1 - r`` stands for the token ``sampled[r]``. Knows ids and rows; moves bits and computes nothing.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch

from kernels import tuned
from kernels.backend import jit, power_of_two, tl, use_triton


def embed(table: torch.Tensor, token_ids: torch.Tensor, sampled: torch.Tensor | None = None) -> torch.Tensor:
    """``[T, H]``: row t is ``table[token_ids[t]]`` of ``table[V, H]``; ids int64 [T], ``sampled`` int64 [R].

    A negative id ``-1 - r`` means ``sampled[r]``; where that is no token of the vocabulary, such as the -1 of
    a row whose logits were no numbers, the row is that of token 0.
    """
    assert (table.dim(), token_ids.dim()) == (2, 1), (table.shape, token_ids.shape)
    assert token_ids.dtype == torch.int64, token_ids.dtype
    assert sampled is None or (sampled.dim() == 1 and sampled.dtype == torch.int64), sampled
    return (embed_triton if use_triton(table) else embed_torch)(table, token_ids, sampled)


def embed_torch(table: torch.Tensor, token_ids: torch.Tensor, sampled: torch.Tensor | None) -> torch.Tensor:
    """Reference and CPU path: reads and writes T H numbers, as the kernel does."""
    if sampled is not None and len(sampled):
        token_ids = resolve(token_ids, sampled, table.shape[0])
    return table.index_select(0, token_ids)


def resolve(token_ids: torch.Tensor, sampled: torch.Tensor, vocab: int) -> torch.Tensor:
    """``token_ids`` [T] with each -1 - r replaced by ``sampled[r]``, or by 0 where that is no token."""
    late = sampled.index_select(0, (-1 - token_ids).clamp(0, len(sampled) - 1))
    late = torch.where((late >= 0) & (late < vocab), late, 0)
    return torch.where(token_ids < 0, late, token_ids)


@jit(do_not_specialize=["R"], do_not_specialize_on_alignment=["token_ids", "sampled"])
def _embed_kernel(table, token_ids, sampled, out, V, R, H: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.cdiv(H, BLOCK)  # programs of a row
    t = (tl.program_id(0) // columns).to(tl.int64)
    token = tl.load(token_ids + t)
    late = (token < 0) & (-1 - token < R)
    token = tl.where(late, tl.load(sampled + (-1 - token), mask=late, other=0), token)
    token = tl.where((token >= 0) & (token < V), token, 0)
    h = tl.program_id(0) % columns * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + t * H + h, tl.load(table + token * H + h, mask=h < H), mask=h < H)


def embed_triton(table: torch.Tensor, token_ids: torch.Tensor, sampled: torch.Tensor | None) -> torch.Tensor:
    """One program a (row, 2048 columns). An id that the table does not have reads row 0."""
    (vocab, hidden), tokens = table.shape, token_ids.shape[0]
    for each in (table, token_ids, sampled):
        assert each is None or each.is_contiguous(), each.stride()
    out = torch.empty(tokens, hidden, dtype=table.dtype, device=table.device)
    use = tuned.config("embed", {"H": hidden}, default_use(hidden), table.device)
    if tokens:
        late = token_ids if sampled is None else sampled
        number = 0 if sampled is None else sampled.shape[0]
        _embed_kernel[(-(-hidden // use["BLOCK"]) * tokens,)](
            table, token_ids, late, out, vocab, number, H=hidden, **use
        )
    return out


def default_use(hidden: int) -> dict[str, int]:
    """Two loads of 16 bytes a thread; 16 programs an SM then keep 64 KiB in flight."""
    return {"BLOCK": min(2048, power_of_two(hidden)), "num_warps": 4}
