"""How much of a GPU's memory its KV pages get: what is left when everything else has been tried out.

As vLLM does: compute the largest step there will be once, see what it takes at most, and give the pages what
this node's share of the memory leaves. Knows bytes; knows no request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from pagewire.errors import ConfigError

RESERVE = 3 << 29  # the CUDA context, captured graphs, slabs of the handoff, the allocator's granularity


class Memory(NamedTuple):
    """Bytes. ``total`` and ``free`` of the device, other processes' use counted; ``weights`` and ``step`` of
    this one: what stays, and what the largest step takes on top while it is computed.
    """

    total: int
    free: int
    weights: int
    step: int


def kv_bytes(memory: Memory, utilization: float) -> int:
    """What is left for KV pages when this process may use ``utilization`` (0 to 1) of the whole memory.

    Raises ConfigError, with the numbers, if that is nothing. ``free`` is counted while the weights are there
    and no step is under way.
    """
    share = int(memory.total * utilization)
    left = min(share - memory.weights, memory.free) - memory.step - RESERVE
    if left <= 0:
        raise ConfigError(
            f"no GPU memory is left for the KV cache: of {_gib(memory.total)} this node may use {_gib(share)}"
            f" (--gpu-memory-utilization), {_gib(memory.free)} are free, and it needs"
            f" {_gib(memory.weights)} for weights, {_gib(memory.step)} for a step and {_gib(RESERVE)} spare;"
            " use a smaller model, fewer --max-num-batched-tokens, or a larger share"
        )
    return left


def measure(device: torch.device, largest_step: Callable[[], object]) -> Memory:
    """Run ``largest_step`` once and see what it takes. The weights are loaded; no pages are allocated yet."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    weights = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    largest_step()
    torch.cuda.synchronize(device)
    step = torch.cuda.max_memory_allocated(device) - weights
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return Memory(total, free, weights, step)


@contextmanager
def explained(doing: str, device: torch.device) -> Iterator[None]:
    """Turn "out of memory" in here into a ConfigError with the numbers."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(full(doing, device)) from error


def full(doing: str, device: torch.device) -> str:
    """What to say when the memory has run out."""
    free, total = torch.cuda.mem_get_info(device)
    here = torch.cuda.memory_reserved(device)
    return (
        f"the GPU's memory is full while {doing}: of {_gib(total)} this node holds {_gib(here)} and"
        f" {_gib(free)} are free; use a smaller model, a lower --gpu-memory-utilization or"
        " --max-num-batched-tokens, or put fewer nodes on one GPU"
    )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB"
