"""The two ends of a handoff in two processes, on one GPU, for ``section_handoff``: how fast KV goes.

This process is the decode node's end, the one that it starts the prefill node's. Both have the real sender,
receiver, socket and pages; no model computes, and all of a prompt is there when it is granted room. Without a
GPU there is no other way than host memory, and what is read are not measurements.

    python -m benchmarks.gpu.handoff_far DEVICE LAYOUT TOKENS ADDRESS ...
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping

import msgpack
import numpy as np
import torch

from kv_transfer import (
    Done,
    Dropped,
    Granted,
    Landed,
    Limits,
    Lost,
    Receiver,
    Refused,
    Reserved,
    Sender,
    open_receiver,
    open_sender,
)
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging import PinnedPages
from pagewire.layout import KVLayout

SECRET = b"0123456789abcdef0123456789abcdef"
ROUNDS, LIMIT_S = 6, 60.0


def pages_of(device: torch.device, layout: KVLayout, tokens: int) -> PinnedPages:
    cache = KVCache(layout, tokens // 16, 16, device)
    cache.pages.view(torch.int16).random_(0, 0x3F00)
    pages = PinnedPages(cache)
    pages.warm_up()
    return pages


def read(device: torch.device, layout: KVLayout, tokens: int, frame: int) -> Mapping[str, float | int | str]:
    """GB/s from grant to the last write, from device to device and through host memory: medians."""
    direct, host = (pages_of(device, layout, tokens) for _ in range(2))
    ends = {
        "direct": open_receiver("shm://*", SECRET, direct.landing, direct.borrower()),
        "through_host": open_receiver("shm://*", SECRET, host.landing),
    }
    limits = Limits(frame_bytes=frame)
    receivers = {
        "direct": Receiver(ends["direct"], direct, layout, "d", limits),
        "through_host": Receiver(ends["through_host"], host, layout, "h", limits),
    }
    words = [str(device), msgpack.packb(_fields(layout)).hex(), str(tokens)]
    addresses = [receiver.address for receiver in receivers.values()]
    child = subprocess.Popen([sys.executable, "-m", __name__, *words, *addresses])
    try:
        taken = {name: _rounds(device, receiver, tokens) for name, receiver in receivers.items()}
        mapped = len(ends["direct"]._borrowed.peers)
    finally:
        child.kill()
        child.wait()
        for receiver in receivers.values():
            receiver.close()
    size = tokens * layout.token_bytes
    figures: dict[str, float | int | str] = {"direct_links": mapped}  # 0: it went through the host as well
    for name, seconds in taken.items():
        figures[f"{name}_ms"] = seconds * 1e3
        figures[f"{name}_GBps"] = size / seconds / 1e9
    return figures


def _rounds(device: torch.device, receiver: Receiver, tokens: int) -> float:
    """Seconds a prompt, the median of those after the first."""
    slots, began, taken = np.arange(tokens), 0.0, list[float]()
    stop = time.monotonic() + LIMIT_S
    while len(taken) < ROUNDS:
        if time.monotonic() > stop:
            raise TimeoutError(f"only {len(taken)} prompts came in {LIMIT_S} s")
        for event in receiver.poll(time.monotonic()):
            match event:
                case Reserved(transfer):
                    began = time.perf_counter()
                    receiver.grant(transfer, 0, slots)
                case Landed(transfer):
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    taken.append(time.perf_counter() - began)
                    receiver.adopt(transfer)
                case Dropped(reason=reason):
                    raise RuntimeError(reason)
    return sorted(taken[1:])[len(taken) // 2 - 1]


def _send(device: torch.device, layout: KVLayout, tokens: int, addresses: list[str]) -> None:
    """All rounds to the first address, then to the next, until killed."""
    pages, slots = pages_of(device, layout, tokens), np.arange(tokens)
    sender = Sender(open_sender(SECRET, pages.lender()), pages, layout, "p")
    to = iter([address for address in addresses for _ in range(ROUNDS)])

    def ask() -> None:
        if (address := next(to, None)) is not None:
            sender.reserve(address, tokens, b"", LIMIT_S, time.monotonic())

    ask()
    stop = time.monotonic() + 3 * LIMIT_S  # should nobody kill it
    while time.monotonic() < stop:
        for event in sender.poll(time.monotonic()):
            match event:
                case Granted(transfer):
                    sender.publish(transfer, slots, tokens)
                    sender.commit(transfer, b"", time.monotonic())
                case Done():
                    ask()
                case Lost(reason=reason) | Refused(reason=reason):
                    sys.exit(reason)


def _fields(layout: KVLayout) -> dict[str, int | str]:
    return {name: getattr(layout, name) for name in KVLayout.__dataclass_fields__}


if __name__ == "__main__":
    device, layout, tokens, *addresses = sys.argv[1:]
    _send(torch.device(device), KVLayout(**msgpack.unpackb(bytes.fromhex(layout))), int(tokens), addresses)
