"""The other process of a handoff from device to device: ``direct_far.py cuda|FOLDER sender|receiver ADDRESS
[half]``.

On a GPU through CUDA IPC; with ``FOLDER``, files that both processes map stand in for the GPU's memory. A
sender publishes ``half`` of the prompt, or all of it and commits. Either stays until it is killed.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from lent_memory import FileShare

from kv_transfer import Granted, Landed, Limits, Receiver, Reserved, Sender, open_receiver, open_sender
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging import PinnedPages
from pagewire.layout import KVLayout

LAYOUT = KVLayout(layers=8, kv_heads=2, head_dim=64, dtype="bfloat16", model="m")
TOKENS, SLOTS, SECRET = 1500, 2048, b"0123456789abcdef0123456789abcdef"  # 6 MiB
LIMITS = Limits(frame_bytes=256 << 10)
TAKE, GIVE = (np.random.default_rng(seed).permutation(SLOTS)[:TOKENS] for seed in (1, 2))


def kv() -> torch.Tensor:
    random = torch.Generator().manual_seed(7)
    return torch.randn(LAYOUT.slab_shape(SLOTS), generator=random).bfloat16()


def pages_of(where: str, page_size: int, kv: torch.Tensor | None = None) -> tuple[KVCache, PinnedPages]:
    device = torch.device("cuda" if where == "cuda" else "cpu")
    cache = KVCache(LAYOUT, SLOTS // page_size, page_size, device)
    if kv is not None:
        cache.pages.copy_(kv.view(cache.pages.shape))
    share = None if where == "cuda" else FileShare(Path(where))
    pages = PinnedPages(cache, None, share, size=1 << 20, block=256 << 10)
    pages.warm_up()
    return cache, pages


def a_sender(where: str) -> Sender:
    pages = pages_of(where, 16, kv())[1]
    return Sender(open_sender(SECRET, pages.lender()), pages, LAYOUT, "p", groups=4)


def a_receiver(where: str, address: str) -> tuple[Receiver, KVCache]:
    cache, pages = pages_of(where, 32)
    listener = open_receiver(address, SECRET, pages.landing, pages.borrower())
    return Receiver(listener, pages, LAYOUT, "d", LIMITS), cache


def answer(end: Sender | Receiver, event: object, tokens: int = TOKENS) -> None:
    match event:
        case Granted(transfer):
            end.publish(transfer, TAKE, tokens)
            if tokens == TOKENS:
                end.commit(transfer, b"first", time.monotonic())
        case Reserved(transfer):
            end.grant(transfer, 0, GIVE)
        case Landed(transfer):
            end.adopt(transfer)


def reserve(sender: Sender, address: str) -> None:
    sender.reserve(address, TOKENS, b"who", 60.0, time.monotonic())


def main(where: str, role: str, address: str, half: bool) -> None:
    logging.basicConfig(level=logging.INFO)
    end = a_sender(where) if role == "sender" else a_receiver(where, address)[0]
    if role == "sender":
        reserve(end, address)
    else:
        print(end.address, flush=True)
    while True:
        for event in end.poll(time.monotonic()):
            answer(end, event, TOKENS // 2 if half else TOKENS)
        time.sleep(0.0005)


if __name__ == "__main__":
    main(*sys.argv[1:4], half=sys.argv[4:] == ["half"])
