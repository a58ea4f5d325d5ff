"""The receiver's end of links whose bodies stay on devices: whose memory is mapped, and what is taken there.

Knows messages, peers and blocks by their numbers; how a device maps and copies is ``direct.Borrower``'s.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Set

from kv_transfer.transports.base import Peer
from kv_transfer.transports.direct import AHEAD, MARK, NUMBER, Borrower, Brought, Mapped, Ref
from kv_transfer.transports.zeromq import Parts
from pagewire.errors import RemoteProtocolError

log = logging.getLogger("pagewire.handoff")
_MAX_LINKS = 256


class Borrowed:
    """What the senders have lent to this process."""

    def __init__(self, borrower: Borrower | None) -> None:
        self._borrower = borrower
        self._mapped: dict[Peer, Mapped] = {}
        self._took: dict[Peer, list[int]] = defaultdict(list)

    @property
    def peers(self) -> Set[Peer]:
        return self._mapped.keys()

    def map(self, peer: Peer, offer: bytes) -> bool:
        """True if what ``peer`` offers, once, is ours to read. Else its bodies come another way."""
        if self._borrower is None or peer in self._mapped or len(self._mapped) >= _MAX_LINKS:
            return False
        try:
            self._mapped[peer] = self._borrower.map(offer)
        except RemoteProtocolError as error:
            log.info("a sender's KV comes through host memory: %s", error)
            return False
        log.info("a sender's KV comes from device to device")
        return True

    def ahead(self, messages: Iterable[Parts]) -> Iterator[tuple[Parts, Brought | None]]:
        """The messages, in their order. Some bodies are begun to be brought before their turn, so that the
        device has something to do while the first of them is waited for.
        """
        begun: deque[tuple[Parts, Brought | None]] = deque()
        for message in messages:
            begun.append((message, self._bring(message)))
            if len(begun) == AHEAD:
                yield begun.popleft()
        yield from begun

    def give_back(self, say: Callable[[Peer, bytes], bool]) -> None:
        """What has been brought was waited for: ``say`` so in a word that ``Lent.took`` reads. What could not
        be said is said again.
        """
        for peer, blocks in list(self._took.items()):
            if say(peer, b"".join(map(NUMBER.pack, blocks))):
                del self._took[peer]

    def forget(self, peer: Peer) -> None:
        self._took.pop(peer, None)
        if (mapped := self._mapped.pop(peer, None)) is not None:
            mapped.close()

    def _bring(self, message: Parts) -> Brought | None:
        """None if it does not lie where it is said to: the frame has no body then, which its head tells."""
        match message.parts:
            case [head, mark, word] if head and mark == MARK and message.peer in self._mapped:
                try:
                    ref = Ref.unpack(word)
                    brought = self._mapped[message.peer].bring(ref.offset, ref.size)
                except RemoteProtocolError:
                    return None
                self._took[message.peer].append(ref.block)
                return brought
        return None
