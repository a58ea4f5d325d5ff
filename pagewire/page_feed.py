"""What a node tells routers of its prefix cache: each change, batched, to those that asked.

Knows labels, readers and message sizes; knows no socket (``send`` is a mailbox's) and decides nothing. To
each reader go numbered messages that begin from nothing, so that a snapshot is only a longer change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pagewire.engine.pages import PagePool
from pagewire.messages import Hello, NodeId, PagesChanged, PagesWanted
from pagewire.page_chain import pack

TELL_EVERY_S = 0.05  # while steps follow each other
CHUNK = 1 << 15  # labels in a message: 256 KiB


@dataclass(slots=True)
class _Reader:
    stream: int
    sequence: int = 0


class PageFeed:
    def __init__(self, hello: Hello, pool: PagePool, send: Callable[[NodeId, object], None]) -> None:
        self._hello = hello
        self._pool = pool
        self._to = send
        self._readers: dict[NodeId, _Reader] = {}
        self._tell_at = 0.0

    def wanted(self, router: NodeId, wanted: PagesWanted) -> None:
        """Begin a new stream for ``router`` with all that is here."""
        self._tell_all()
        reader = self._readers[router] = _Reader(wanted.stream)
        self._send(router, reader, self._pool.labels, [], always=True)

    def lost(self, router: NodeId) -> None:
        self._readers.pop(router, None)

    def tell(self, now: float, *, busy: bool) -> None:
        """Pass on what changed, while steps follow each other no more often than is of use."""
        if self._readers and (not busy or now >= self._tell_at):
            self._tell_at = now + TELL_EVERY_S
            self._tell_all()

    def _tell_all(self) -> None:
        added, evicted = self._pool.changes.take()
        for router, reader in self._readers.items():
            self._send(router, reader, added, evicted)

    def _send(
        self,
        router: NodeId,
        reader: _Reader,
        added: list[bytes],
        evicted: list[bytes],
        *,
        always: bool = False,
    ) -> None:
        """In chunks; nothing where there is nothing to tell, unless ``always``."""
        for at in range(0, max(len(added), len(evicted), int(always)), CHUNK):
            come, gone = pack(added[at : at + CHUNK]), pack(evicted[at : at + CHUNK])
            node, epoch = self._hello.node, self._hello.epoch
            message = PagesChanged(node, epoch, reader.stream, reader.sequence, come, gone)
            self._to(router, message)
            reader.sequence += 1
