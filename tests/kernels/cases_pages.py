"""Moves of KV between rows, pages and slabs."""

from __future__ import annotations

import torch
from gpu_cases import DEVICE

from kernels.kv_pages import (
    gather_torch,
    gather_triton,
    scatter_torch,
    scatter_triton,
    store_torch,
    store_triton,
)


def test_store() -> None:
    kv = torch.randn(2, 2, 6, 4, 3, 20, device=DEVICE)
    twin, slots = kv.clone(), torch.tensor([5, 3, 23], device=DEVICE)
    fused = torch.randn(3, 2 * 60, device=DEVICE)
    k, v = fused[:, :60].view(3, 3, 20), fused[:, 60:].view(3, 3, 20)
    store_triton(k, v, kv[1], slots)
    store_torch(k, v, twin[1], slots)
    assert torch.equal(kv, twin)


def test_gather() -> None:
    kv, slots = torch.randn(3, 2, 6, 4, 3, 20, device=DEVICE), torch.tensor([5, 3, 23], device=DEVICE)
    assert torch.equal(gather_triton(kv[1:], slots), gather_torch(kv[1:], slots))


def test_scatter() -> None:
    kv, slots = torch.randn(3, 2, 6, 4, 3, 20, device=DEVICE), torch.tensor([5, 3, 23], device=DEVICE)
    twin, slab = kv.clone(), torch.randn(2, 2, 3, 3, 20, device=DEVICE)
    scatter_triton(kv[1:], slots, slab)
    scatter_torch(twin[1:], slots, slab)
    assert torch.equal(kv, twin)
