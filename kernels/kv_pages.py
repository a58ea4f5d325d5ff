"""Moves of KV between rows, pages and slabs.

The KV memory of a node is one tensor ``kv[L, 2 (K, V), pages, page_size, Hkv, D]``; a slot is
page * page_size + offset. A slab ``[L', 2, n, Hkv, D]`` is n tokens in the order of their positions, whatever
the page size: what goes on the wire. Knows memory only: not whose a page is, nor whether it may be written.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch

from kernels.backend import jit, power_of_two, tl, use_triton
from kernels.kv_pages_cpu import gather_cpu, rows_of, scatter_cpu


def store(k: torch.Tensor, v: torch.Tensor, kv_layer: torch.Tensor, slots: torch.Tensor) -> None:
    """Write ``k, v[T, Hkv, D]`` to ``kv_layer[2, pages, page_size, Hkv, D]``; ``slots[T]`` int64, unique."""
    assert k.shape == v.shape == (slots.shape[0], *kv_layer.shape[3:]), (k.shape, v.shape, kv_layer.shape)
    assert k.dtype == v.dtype == kv_layer.dtype, (k.dtype, v.dtype, kv_layer.dtype)
    assert slots.dtype == torch.int64, slots.dtype
    (store_triton if use_triton(k) else store_torch)(k, v, kv_layer, slots)


def gather(kv: torch.Tensor, slots: torch.Tensor, layers: slice | None = None) -> torch.Tensor:
    """The contiguous slab ``[L', 2, n, Hkv, D]`` of ``slots[n]`` int64 in the given layers (default: all)."""
    assert slots.dtype == torch.int64, slots.dtype
    kv = kv if layers is None else kv[layers]
    if kv.device.type != "cpu":
        return gather_triton(kv, slots) if use_triton(kv) else gather_torch(kv, slots)
    slab = torch.empty(*kv.shape[:2], slots.shape[0], *kv.shape[4:], dtype=kv.dtype)
    gather_cpu(rows_of(kv), slots.numpy(), kv.shape[3], slab.view(-1).view(torch.uint8).numpy())
    return slab


def scatter(kv: torch.Tensor, slots: torch.Tensor, slab: torch.Tensor, layers: slice | None = None) -> None:
    """Write ``slab[L', 2, n, Hkv, D]`` to ``slots[n]`` int64, all different: what ``gather`` reads back."""
    assert slots.dtype == torch.int64, slots.dtype
    kv = kv if layers is None else kv[layers]
    assert slab.shape == (kv.shape[0], 2, slots.shape[0], *kv.shape[4:]), (slab.shape, kv.shape, slots.shape)
    assert slab.dtype == kv.dtype, (slab.dtype, kv.dtype)
    if kv.device.type != "cpu":
        (scatter_triton if use_triton(kv) else scatter_torch)(kv, slots, slab)
    else:
        scatter_cpu(rows_of(kv), slots.numpy(), kv.shape[3], slab.reshape(-1).view(torch.uint8).numpy())


def copy_pages(kv: torch.Tensor, src: list[int], dst: list[int]) -> None:
    """Copy whole pages in every layer, all reads before the writes: ``kv[..., dst[i]] = kv[..., src[i]]``."""
    assert len(src) == len(dst) == len(set(dst)), (src, dst)
    if src:
        moved = kv.index_select(2, torch.tensor(src, device=kv.device))
        kv.index_copy_(2, torch.tensor(dst, device=kv.device), moved)


def store_torch(k: torch.Tensor, v: torch.Tensor, kv_layer: torch.Tensor, slots: torch.Tensor) -> None:
    """Reads and writes 2 T Hkv D numbers, as the kernel does, in two launches instead of one."""
    keys, values = kv_layer.view(2, -1, *kv_layer.shape[3:])
    keys.index_copy_(0, slots, k)
    values.index_copy_(0, slots, v)


def gather_torch(kv: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Reads and writes 2 L' n Hkv D numbers."""
    return kv.flatten(2, 3).index_select(2, slots)


def scatter_torch(kv: torch.Tensor, slots: torch.Tensor, slab: torch.Tensor) -> None:
    """Reads and writes 2 L' n Hkv D numbers."""
    kv.view(*kv.shape[:2], -1, *kv.shape[4:]).index_copy_(2, slots, slab)


@jit
def _store_kernel(k, v, keys, values, slots, k_stride, v_stride, WIDTH, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < WIDTH
    to = tl.load(slots + row) * WIDTH + i
    tl.store(keys + to, tl.load(k + row * k_stride + i, mask=inside), mask=inside)
    tl.store(values + to, tl.load(v + row * v_stride + i, mask=inside), mask=inside)


@jit
def _gather_kernel(kv, slots, slab, plane_stride, N, WIDTH, BLOCK: tl.constexpr):
    row, plane = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < WIDTH
    source = kv + plane * plane_stride + tl.load(slots + row) * WIDTH
    tl.store(slab + (plane * N + row) * WIDTH + i, tl.load(source + i, mask=inside), mask=inside)


@jit
def _scatter_kernel(kv, slots, slab, plane_stride, N, WIDTH, BLOCK: tl.constexpr):
    row, plane = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < WIDTH
    target = kv + plane * plane_stride + tl.load(slots + row) * WIDTH
    tl.store(target + i, tl.load(slab + (plane * N + row) * WIDTH + i, mask=inside), mask=inside)


def store_triton(k: torch.Tensor, v: torch.Tensor, kv_layer: torch.Tensor, slots: torch.Tensor) -> None:
    """One program a token. k and v may be slices of a fused qkv: a token's heads must lie together."""
    width = k.shape[1] * k.shape[2]
    for x in (k, v):
        assert x.stride()[1:] == (x.shape[2], 1), x.stride()
    assert kv_layer[0].is_contiguous(), kv_layer.stride()
    if slots.shape[0]:
        _store_kernel[(slots.shape[0],)](
            k, v, kv_layer[0], kv_layer[1], slots, k.stride(0), v.stride(0), width, BLOCK=power_of_two(width)
        )


def gather_triton(kv: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """One program a (token, layer, K or V)."""
    slab = torch.empty(*kv.shape[:2], slots.shape[0], *kv.shape[4:], dtype=kv.dtype, device=kv.device)
    _launch_move(_gather_kernel, kv, slots, slab)
    return slab


def scatter_triton(kv: torch.Tensor, slots: torch.Tensor, slab: torch.Tensor) -> None:
    """One program a (token, layer, K or V)."""
    assert slab.is_contiguous(), slab.stride()
    _launch_move(_scatter_kernel, kv, slots, slab)


def _launch_move(kernel, kv: torch.Tensor, slots: torch.Tensor, slab: torch.Tensor) -> None:
    assert kv.is_contiguous(), kv.stride()
    tokens, width = slots.shape[0], kv.shape[4] * kv.shape[5]
    if tokens:
        grid = (tokens, kv.shape[0] * 2)
        kernel[grid](kv, slots, slab, kv.stride(1), tokens, width, BLOCK=power_of_two(width))
