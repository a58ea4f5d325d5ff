"""A prompt's KV from one node's pages to another's, through pinned memory and a wire, whole and in its place.

On a GPU the stream that computes is late on purpose; without one the same way is walked without a device.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from decode_node.main import AT_A_GPU
from kv_transfer import Done, Granted, Landed, Limits, Receiver, Reserved, Sender, open_receiver, open_sender
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging import PinnedPages
from pagewire.layout import KVLayout

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
LAYOUT = KVLayout(layers=6, kv_heads=2, head_dim=32, dtype="bfloat16", model="m")
TOKENS, SLOTS = 700, 1024
SECRET = b"0123456789abcdef0123456789abcdef"


WIDE = KVLayout(layers=6, kv_heads=8, head_dim=128, dtype="bfloat16", model="m")  # 6 MiB a frame


def some_kv(seed: int, layout: KVLayout) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(layout.slab_shape(SLOTS), generator=random).bfloat16().to(DEVICE)


def cache_of(kv: torch.Tensor, page_size: int, layout: KVLayout) -> KVCache:
    cache = KVCache(layout, SLOTS // page_size, page_size, DEVICE)
    cache.pages.copy_(kv.view(cache.pages.shape))
    return cache


def stand() -> None:
    """The stream that computes stands for some milliseconds."""
    if GPU:
        torch.cuda._sleep(20_000_000)


@pytest.mark.parametrize("scheme", ["shm", "tcp"])
@pytest.mark.parametrize(("layout", "limits"), [(LAYOUT, Limits()), (WIDE, AT_A_GPU)], ids=["small", "large"])
def test_kv_goes_from_pages_to_pages(scheme: str, layout: KVLayout, limits: Limits, sockets: Path) -> None:
    kv = some_kv(1, layout)
    source, target = cache_of(kv, 16, layout), cache_of(torch.zeros_like(kv), 32, layout)
    sink, seen = PinnedPages(target), []
    listener = open_receiver("shm://*" if scheme == "shm" else "tcp://127.0.0.1:*", SECRET, sink.landing)
    receiver = Receiver(listener, sink, layout, "d", limits)
    sender = Sender(open_sender(SECRET), PinnedPages(source), layout, "p", groups=3)
    take, give = (np.random.default_rng(seed).permutation(SLOTS)[:TOKENS] for seed in (1, 2))
    sender.reserve(receiver.address, TOKENS, b"who", 60.0, time.monotonic())
    stop = time.monotonic() + 60
    while not any(isinstance(event, Done) for event in seen):
        assert time.monotonic() < stop
        now = time.monotonic()
        for event in [*sender.poll(now), *receiver.poll(now)]:
            seen.append(event)
            match event:
                case Reserved(transfer):
                    receiver.grant(transfer, 0, give)
                case Granted(transfer):
                    stand()
                    for layers in range(2, layout.layers + 1, 2):
                        sender.publish(transfer, take, TOKENS, layers)
                        sender.poll(now)
                    sender.commit(transfer, b"first", now)
                    stand()
                case Landed(transfer):
                    receiver.adopt(transfer)
    sender.close()
    receiver.close()
    landed = target.pages.flatten(2, 3)[:, :, torch.from_numpy(give).to(DEVICE)]
    assert torch.equal(landed, kv[:, :, torch.from_numpy(take).to(DEVICE)])
    other = np.setdiff1d(np.arange(SLOTS), give)
    assert not target.pages.flatten(2, 3)[:, :, torch.from_numpy(other).to(DEVICE)].any()
