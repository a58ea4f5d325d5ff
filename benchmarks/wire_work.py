"""What either end of a wire does with a frame, stage by stage, so that each stage has its own price.

    transport   the sender copies cold bytes into the room that the wire gives; the receiver has the body in
                private memory and looks at nothing
    checked     also: header, xxh3 at both ends
    pages       also: gathered from, and scattered to, pages of a KV cache that lie in no order

Knows bytes and pages; knows no socket.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kv_transfer import wire
from kv_transfer.slab import Part
from pagewire.engine.kv_cache import KVCache, pages_for
from pagewire.layout import KVLayout

LAYOUTS = {
    "demo": KVLayout(30, 3, 64, "float32", "demo"),  # SmolLM2 135M
    "8b": KVLayout(32, 8, 128, "bfloat16", "8b"),  # Llama 3 8B
}
PAGE_SIZE = 16
GROUP = 4  # layers in a frame
COLD_BYTES = 512 << 20  # more than any cache of the CPU
TRANSFER = wire.TransferId("0" * 32)


@dataclass(frozen=True, slots=True)
class Spec:
    """One measurement: ``warm`` frames that do not count, then ``frames`` that do."""

    wire: str
    stage: str
    frame_bytes: int
    total_bytes: int
    layout: str = "demo"

    @property
    def kv(self) -> KVLayout:
        return LAYOUTS[self.layout]

    @property
    def frame_tokens(self) -> int:
        """Whole pages of GROUP layers that fit into a frame."""
        tokens = self.frame_bytes // (self.kv.token_bytes // self.kv.layers * GROUP)
        return max(PAGE_SIZE, tokens // PAGE_SIZE * PAGE_SIZE)

    @property
    def body_bytes(self) -> int:
        return self.frame_tokens * (self.kv.token_bytes // self.kv.layers * GROUP)

    @property
    def frames(self) -> int:
        return max(4, self.total_bytes // self.body_bytes)

    @property
    def warm(self) -> int:
        return max(2, self.frames // 8)


class Memory:
    """What is as large as a KV cache: made once, used by all measurements of a process."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.plain = np.random.default_rng(seed).integers(0, 256, COLD_BYTES, np.uint8)
        self._caches: dict[str, KVCache] = {}

    def cache(self, name: str) -> KVCache:
        if name not in self._caches:
            layout = LAYOUTS[name]
            cache = KVCache(layout, pages_for(COLD_BYTES, layout, PAGE_SIZE), PAGE_SIZE)
            cache.pages.fill_(1)  # committed, as the pages of a node that has run for a while
            self._caches[name] = cache
        return self._caches[name]

    def order(self, pages: int) -> np.ndarray:
        return np.random.default_rng(self._seed + 1).permutation(pages)


class Work:
    def __init__(self, spec: Spec, memory: Memory, shift: int = 0) -> None:
        """``shift``: frames begin so many tokens behind the beginning of a page."""
        self._spec, self._plain, self._shift = spec, memory.plain, shift
        self._checked, self._paged = spec.stage != "transport", spec.stage == "pages"
        if self._paged:
            self._cache = memory.cache(spec.layout)
            self._order = memory.order(self._cache.num_pages)

    def source(self, i: int) -> memoryview:
        """Frame ``i`` in cold memory. No two frames that follow each other lie together."""
        size = self._spec.body_bytes
        at = i * 3 * size % (len(self._plain) - size)
        return self._plain[at : at + size].data

    def fill(self, i: int, room: memoryview) -> None:
        if self._paged:
            self._cache.read_into(self._slots(i), self._layers(i), room)
        else:
            np.frombuffer(room, np.uint8)[:] = np.frombuffer(self.source(i), np.uint8)

    def head(self, i: int, body: memoryview) -> bytes:
        if not self._checked:
            return i.to_bytes(8, "little")
        layers = self._layers(i)
        part = Part(0, self._spec.frame_tokens, layers.start, layers.stop)
        message = wire.Data(TRANSFER, "bench", i, *part, checksum=wire.checksum(body))
        return wire.encode(message, body)

    def take(self, i: int, head: bytes, body: wire.Buffer) -> None:
        assert len(body) == self._spec.body_bytes, (len(body), self._spec)
        if self._checked:
            message = wire.decode(head, body)
            assert isinstance(message, wire.Data)
            assert message.seq == i, (message.seq, i)
            assert message.checksum == wire.checksum(body), "the wire changed bytes"
        if self._paged:
            self.put(i, body)

    def put(self, i: int, body: wire.Buffer) -> None:
        self._cache.write(self._slots(i), self._layers(i), body)

    def _layers(self, i: int) -> slice:
        start = i * GROUP % (self._spec.kv.layers // GROUP * GROUP)
        return slice(start, start + GROUP)

    def _slots(self, i: int) -> np.ndarray:
        tokens = self._spec.frame_tokens
        count = tokens // PAGE_SIZE
        pages = self._order[np.arange(i * count, (i + 1) * count + 1) % len(self._order)]
        slots = (pages[:, None] * PAGE_SIZE + np.arange(PAGE_SIZE)).reshape(-1)
        return slots[self._shift : self._shift + tokens]
