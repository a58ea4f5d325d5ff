"""What the two ends of a NIXL link say to each other beside frames, and what may be read of what is lent.

Knows bytes, addresses and their bounds; reads nothing.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kv_transfer.transports.base import Peer
from kv_transfer.transports.ring import OFFER_BYTES, START, Offer, Ref
from kv_transfer.wire import MAX_BODY_BYTES
from pagewire.errors import RemoteProtocolError

# The transport's own words. A card is followed by what is lent, FREE by a position.
CARD, READ, FREE, UNREAD = b"nixl-card", b"read", b"free", b"unread"
_ADDRESS = struct.Struct("<Q")
_MAX_RING = 1 << 32
_MAX_METADATA = 64 << 10


class Card(NamedTuple):
    """``address`` is where the segment lies in the memory of the sender's NIXL process; ``metadata`` is how
    that is met, and says of no other memory.
    """

    address: int
    offer: Offer
    metadata: bytes

    def pack(self) -> bytes:
        return CARD + _ADDRESS.pack(self.address) + self.offer.pack() + self.metadata

    @classmethod
    def unpack(cls, word: bytes) -> Card:
        """Raises RemoteProtocolError if it is none."""
        start = len(CARD) + _ADDRESS.size
        if len(word) < start or len(word) > start + OFFER_BYTES + _MAX_METADATA:
            raise RemoteProtocolError("not a card of lent memory")
        (address,) = _ADDRESS.unpack_from(word, len(CARD))
        offer = Offer.unpack(word[start : start + OFFER_BYTES])
        if offer.size > _MAX_RING or address + START + offer.size >= 1 << 64:
            raise RemoteProtocolError("not a segment that can be")
        return cls(address, offer, word[start + OFFER_BYTES :])

    def has(self, ref: Ref) -> bool:
        """True if that lies in what is lent, and is not larger than a body may be."""
        return 0 < ref.size <= MAX_BODY_BYTES and START <= ref.offset <= START + self.offer.size - ref.size


def swap(peer: Peer) -> Peer:
    """nixl://host:port is a socket at tcp://host:port."""
    scheme, _, rest = peer.partition(b"://")
    return Peer((b"tcp://" if scheme == b"nixl" else b"nixl://") + rest)
