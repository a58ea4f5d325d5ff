"""The parts of the wire that need one process: memcpy, checksum, and moves between pages and slabs.

Each row is a function that goes over cold memory once per frame; ``Spent`` puts all CPU at the near end.
Knows no socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from measure import Spent
from wire_work import PAGE_SIZE, Memory, Spec, Work

from kv_transfer import wire


def alone(what: str, spec: Spec, memory: Memory) -> Spent:
    one = _ONE[what](spec, memory)
    for i in range(spec.warm):
        one(i)
    wall, cpu = time.perf_counter(), time.process_time()
    for i in range(spec.warm, spec.warm + spec.frames):
        one(i)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Spent(spec.frames * spec.body_bytes, wall, cpu, 0.0)


def _memcpy(spec: Spec, memory: Memory) -> Callable[[int], None]:
    """Cold memory to cold memory."""
    work, target, size = Work(spec, memory), memory.plain, spec.body_bytes

    def one(i: int) -> None:
        at = (len(target) // 2 + i * 3 * size) % (len(target) - size)
        target[at : at + size] = np.frombuffer(work.source(i), np.uint8)

    return one


def _checksum(spec: Spec, memory: Memory) -> Callable[[int], None]:
    """xxh3 of a frame that was just copied, as the sender takes it."""
    work, room = Work(spec, memory), np.empty(spec.body_bytes, np.uint8).data

    def one(i: int) -> None:
        wire.checksum(room)

    work.fill(0, room)
    return one


def _gather(spec: Spec, memory: Memory) -> Callable[[int], None]:
    """Cold pages to a warm slab."""
    work, room = Work(spec, memory), np.empty(spec.body_bytes, np.uint8).data
    return lambda i: work.fill(i, room)


def _scatter(spec: Spec, memory: Memory) -> Callable[[int], None]:
    """A warm slab to cold pages."""
    work, room = Work(spec, memory), np.ones(spec.body_bytes, np.uint8).data
    return lambda i: work.put(i, room)


def _gather_ragged(spec: Spec, memory: Memory) -> Callable[[int], None]:
    """As gather, of a range that begins and ends in the middle of a page."""
    work, room = Work(spec, memory, shift=PAGE_SIZE // 2), np.empty(spec.body_bytes, np.uint8).data
    return lambda i: work.fill(i, room)


def _scatter_ragged(spec: Spec, memory: Memory) -> Callable[[int], None]:
    """As scatter, of a range that begins and ends in the middle of a page."""
    work, room = Work(spec, memory, shift=PAGE_SIZE // 2), np.ones(spec.body_bytes, np.uint8).data
    return lambda i: work.put(i, room)


_ONE = {
    "memcpy": _memcpy,
    "xxh3": _checksum,
    "gather": _gather,
    "scatter": _scatter,
    "gather, ragged": _gather_ragged,
    "scatter, ragged": _scatter_ragged,
}
