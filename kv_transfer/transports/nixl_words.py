"""What a node and its NIXL process say to each other: a kind, some whole numbers and at most one blob.

    node -> process   LEND link | offer          map this segment and register it
                      MEET link | metadata       READs of this link go to the agent that made the metadata
                      READ link tag at address size
                      FORGET link                once its READs have ended
                      AWAKE 0 or 1               others may READ from here, which needs our hand
    process -> node   READY
                      LENT link address | metadata
                      DONE tag
                      FAILED tag

LEND and MEET are not answered where they fail: LENT does not come, and READs of that link FAIL.
Knows numbers and bytes; knows no socket.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from kv_transfer.wire import Buffer
from pagewire.errors import RemoteProtocolError

LEND, MEET, READ, FORGET, AWAKE = b"lend", b"meet", b"read", b"forget", b"awake"
READY, LENT, DONE, FAILED = b"ready", b"lent", b"done", b"failed"
_COUNT = {LEND: 1, MEET: 1, READ: 5, FORGET: 1, AWAKE: 1, READY: 0, LENT: 2, DONE: 1, FAILED: 1}


class Word(NamedTuple):
    kind: bytes
    numbers: tuple[int, ...] = ()
    blob: bytes = b""

    def parts(self) -> Sequence[bytes]:
        assert len(self.numbers) == _COUNT[self.kind]
        return self.kind, struct.pack(f"<{len(self.numbers)}Q", *self.numbers), self.blob

    @classmethod
    def of(cls, parts: Sequence[Buffer]) -> Word:
        """Raises RemoteProtocolError if it is none."""
        if len(parts) != 3:
            raise RemoteProtocolError("not a word of a NIXL process")
        kind, numbers, blob = map(bytes, parts)
        if _COUNT.get(kind, -1) * 8 != len(numbers):
            raise RemoteProtocolError("not a word of a NIXL process")
        return cls(kind, struct.unpack(f"<{len(numbers) // 8}Q", numbers), blob)
