"""What the pages of a prompt are called, wherever they lie: a hash chain over its full pages.

Knows token ids; knows no page, no node and no request. The hash of page i is BLAKE2b-160 over (hash of page
i-1, the page's token ids as little-endian int32); the root is the hash of the page size and the client's
salt. A page's hash thus names all the tokens up to its end, and two salts never share a page.

Nodes keep whole hashes. Between processes travel the first 8 bytes, the *label*. There they only help to
place a request: a node looks its own pages up by the whole hash. Where a million labels are known, one that
is not is taken for one of them once in 10^13 times; somebody who makes two prompts of one label has one of
them placed badly, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from struct import pack as pack_numbers

LABEL_BYTES = 8
_DIGEST_BYTES = 20
_AHEAD = 32  # pages that are hashed at once


def extend_chain(hashes: list[bytes], tokens: Sequence[int], salt: str, page_size: int, count: int) -> None:
    """Extend the chain ``hashes`` of ``tokens`` in place to ``count`` pages, hashing only those missing."""
    assert count * page_size <= len(tokens)
    if len(hashes) >= count:
        return
    start = len(hashes)
    missing = tokens[start * page_size : count * page_size]
    raw = pack_numbers(f"<{len(missing)}i", *missing)
    page_bytes = 4 * page_size
    parent = hashes[-1] if hashes else _root(salt, page_size)
    for offset in range(0, len(raw), page_bytes):
        parent = blake2b(parent + raw[offset : offset + page_bytes], digest_size=_DIGEST_BYTES).digest()
        hashes.append(parent)


def _root(salt: str, page_size: int) -> bytes:
    return blake2b(f"{page_size}:{salt}".encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


class Labels:
    """The labels of a prompt's full pages, first to last, hashed only as far as somebody reads."""

    def __init__(self, tokens: Sequence[int], salt: str, page_size: int) -> None:
        self.page_size = page_size
        self._tokens = tokens
        self._salt = salt
        self._hashes: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        full = len(self._tokens) // self.page_size
        for i in range(full):
            if i == len(self._hashes):
                extend_chain(self._hashes, self._tokens, self._salt, self.page_size, min(full, i + _AHEAD))
            yield self._hashes[i][:LABEL_BYTES]


def pack(hashes: Sequence[bytes]) -> bytes:
    """The labels of ``hashes``, one after the other."""
    return b"".join([h[:LABEL_BYTES] for h in hashes])


def unpack(labels: bytes) -> Iterator[bytes]:
    """What ``pack`` put together; a torn last one is left out."""
    whole = len(labels) - len(labels) % LABEL_BYTES
    return (labels[at : at + LABEL_BYTES] for at in range(0, whole, LABEL_BYTES))
