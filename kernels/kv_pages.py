"""Moves of KV between rows, pages and slabs.

The KV memory of a node is one tensor ``kv[L, 2 (K, V), pages, page_size, Hkv, D]``; a slot is
page * page_size + offset. A slab ``[L', 2, n, Hkv, D]`` is n tokens in the order of their positions, whatever
the page size: what goes on the wire. Knows memory only: not whose a page is, nor whether it may be written.

On a GPU every move is one launch of one kernel, which copies rows of bytes from listed places to listed
places in every plane (a layer's K or V): slots to a slab, a slab to slots, pages to pages.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import math

import torch

from kernels import tuned
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
    if use_triton(kv):
        return gather_triton(kv, slots)
    if kv.device.type != "cpu":
        return gather_torch(kv, slots)
    slab = torch.empty(*kv.shape[:2], slots.shape[0], *kv.shape[4:], dtype=kv.dtype)
    gather_cpu(rows_of(kv), slots.numpy(), kv.shape[3], slab.view(-1).view(torch.uint8).numpy())
    return slab


def scatter(kv: torch.Tensor, slots: torch.Tensor, slab: torch.Tensor, layers: slice | None = None) -> None:
    """Write ``slab[L', 2, n, Hkv, D]`` to ``slots[n]`` int64, all different: what ``gather`` reads back."""
    assert slots.dtype == torch.int64, slots.dtype
    kv = kv if layers is None else kv[layers]
    assert slab.shape == (kv.shape[0], 2, slots.shape[0], *kv.shape[4:]), (slab.shape, kv.shape, slots.shape)
    assert slab.dtype == kv.dtype, (slab.dtype, kv.dtype)
    if use_triton(kv):
        scatter_triton(kv, slots, slab)
    elif kv.device.type != "cpu":
        scatter_torch(kv, slots, slab)
    else:
        scatter_cpu(rows_of(kv), slots.numpy(), kv.shape[3], slab.reshape(-1).view(torch.uint8).numpy())


def copy_pages(kv: torch.Tensor, src: list[int], dst: list[int]) -> None:
    """Copy whole pages in every layer, all reads before the writes: ``kv[..., dst[i]] = kv[..., src[i]]``.

    On a GPU the host waits for nothing.
    """
    assert len(src) == len(dst) == len(set(dst)), (src, dst)
    if not src:
        return
    numbers = torch.tensor([src, dst], pin_memory=kv.is_cuda).to(kv.device, non_blocking=True)
    if use_triton(kv) and set(src).isdisjoint(dst):
        copy_pages_triton(kv, numbers[0], numbers[1])
    else:
        kv.index_copy_(2, numbers[1], kv.index_select(2, numbers[0]))


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


@jit(do_not_specialize=["N"], do_not_specialize_on_alignment=["slots"])
def _store_kernel(
    k, v, keys, values, slots, k_stride, v_stride, N, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i = tl.arange(0, BLOCK)[None, :]
    inside = (row < N)[:, None] & (i < WIDTH)
    to = tl.load(slots + row, mask=row < N, other=0)[:, None] * WIDTH + i
    tl.store(keys + to, tl.load(k + row[:, None] * k_stride + i, mask=inside), mask=inside)
    tl.store(values + to, tl.load(v + row[:, None] * v_stride + i, mask=inside), mask=inside)


@jit(do_not_specialize=["source_rows", "target_rows", "N"], do_not_specialize_on_alignment=["take", "put"])
def _move_kernel(
    source, target, take, put, source_rows, target_rows, N,
    WIDTH: tl.constexpr, TAKE: tl.constexpr, PUT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """target[plane, put[n]] = source[plane, take[n]] for all n < N; without a list, n itself."""
    columns = tl.cdiv(WIDTH, BLOCK)
    plane = tl.program_id(1).to(tl.int64)
    row = (tl.program_id(0) // columns).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i = tl.program_id(0) % columns * BLOCK + tl.arange(0, BLOCK)
    listed = row < N
    here = tl.load(take + row, mask=listed, other=0) if TAKE else row
    there = tl.load(put + row, mask=listed, other=0) if PUT else row
    inside = listed[:, None] & (i < WIDTH)[None, :]
    # A row's width is known to the compiler and so, whatever the rows, that each begins at a multiple of it.
    at = (plane * source_rows + here)[:, None] * WIDTH + i[None, :]
    to = (plane * target_rows + there)[:, None] * WIDTH + i[None, :]
    tl.store(target + to, tl.load(source + at, mask=inside), mask=inside)


def store_triton(k: torch.Tensor, v: torch.Tensor, kv_layer: torch.Tensor, slots: torch.Tensor) -> None:
    """Some tokens a program. k and v may be slices of a fused qkv: a token's heads must lie together."""
    tokens, width = slots.shape[0], k.shape[1] * k.shape[2]
    for x in (k, v):
        assert x.stride()[1:] == (x.shape[2], 1), x.stride()
    assert kv_layer[0].is_contiguous(), kv_layer.stride()
    assert slots.is_contiguous(), slots.stride()
    block = power_of_two(width)
    rows = max(1, 2048 // block)
    if tokens:
        _store_kernel[(-(-tokens // rows),)](
            k, v, kv_layer[0], kv_layer[1], slots, k.stride(0), v.stride(0), tokens,
            WIDTH=width, ROWS=rows, BLOCK=block, num_warps=4,
        )  # fmt: skip


def gather_triton(kv: torch.Tensor, slots: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Into ``out``, the contiguous slab's memory, if it is given."""
    shape = (*kv.shape[:2], slots.shape[0], *kv.shape[4:])
    slab = torch.empty(shape, dtype=kv.dtype, device=kv.device) if out is None else out
    assert slab.shape == shape, (slab.shape, shape)
    assert kv.is_contiguous(), kv.stride()
    _launch_move(kv.flatten(2, 3), slab, slots, None)
    return slab


def scatter_triton(kv: torch.Tensor, slots: torch.Tensor, slab: torch.Tensor) -> None:
    assert kv.is_contiguous(), kv.stride()
    _launch_move(slab, kv.flatten(2, 3), None, slots)


def copy_pages_triton(kv: torch.Tensor, src: torch.Tensor, dst: torch.Tensor) -> None:
    """``src``, ``dst`` int64 [n], on the device; no page may be in both, none twice in ``dst``."""
    _launch_move(kv, kv, src, dst)


def _launch_move(
    source: torch.Tensor, target: torch.Tensor, take: torch.Tensor | None, put: torch.Tensor | None
) -> None:
    """``source``, ``target``: [L', 2, rows, ...], whose rows are equally wide and move as integers.

    A program moves 16 KiB of one plane: 8 loads of 16 bytes a thread are in flight before the first store,
    and a few programs an SM keep its share of the memory's bandwidth busy.
    """
    for each in (source, target, take, put):
        assert each is None or each.is_contiguous(), each.stride()
    assert source.dtype == target.dtype, (source.dtype, target.dtype)
    assert source.shape[:2] + source.shape[3:] == target.shape[:2] + target.shape[3:], target.shape
    width = math.prod(source.shape[3:]) * source.itemsize
    unit = _widest(width, source, target)
    use = tuned.config("move_pages", {"bytes": width}, {"BYTES": 16384, "num_warps": 4}, source.device)
    tile, width = use["BYTES"] // unit.itemsize, width // unit.itemsize
    block = min(tile, power_of_two(width))
    listed = take if take is not None else put
    assert listed is not None
    count, rows = listed.shape[0], tile // block
    if count:
        grid = (-(-count // rows) * -(-width // block), source.shape[0] * 2)
        _move_kernel[grid](
            source.view(-1).view(unit), target.view(-1).view(unit),
            listed if take is None else take, listed if put is None else put,
            source.shape[2], target.shape[2], count,
            WIDTH=width, TAKE=take is not None, PUT=put is not None, ROWS=rows, BLOCK=block,
            num_warps=use["num_warps"],
        )  # fmt: skip


def _widest(width: int, *tensors: torch.Tensor) -> torch.dtype:
    """The widest integers that rows of ``width`` bytes at these addresses are made of."""
    for unit in (torch.int64, torch.int32, torch.int16):
        if not any(n % unit.itemsize for n in (width, *(x.data_ptr() for x in tensors))):
            return unit
    return torch.uint8
