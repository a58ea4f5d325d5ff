"""Frames and messages made wrong, each in one of many ways, from a seeded generator of random numbers.

Knows preambles, msgpack and bytes; knows no socket. Nothing that comes out of here may be accepted by
anybody: a change that by chance leaves a frame as it was is made again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import here  # noqa: F401
import msgpack
import xxhash

from kv_transfer import wire
from pagewire.versions import LEVEL

Parts = list[bytes]
_FIXED = struct.Struct("<4sBBHIIQ")
_ENVELOPE = b"\x93" + bytes(msgpack.packb(LEVEL))

BOMBS = (
    b"\x91" * 2000 + b"\xc0",  # depth
    b"\x81\xa1a" * 1200 + b"\xc0",
    b"\xdd\xff\xff\xff\xff",  # lists, maps, strings and bytes that claim 4 GiB
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xd4\x05\x00",  # ext
    b"\xc1",  # never used by msgpack
    b"\xa3\xed\xa0\x80",  # a lone surrogate
    b"\xcb" + struct.pack(">d", float("nan")),
    b"",
)
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 63, (1 << 64) - 1, -(1 << 63), 1.5, float("nan"), float("inf"), "", "x" * 600,
    b"bytes", [], [[]], {}, {"a": 1}, "\x00\x1b[2J\n", msgpack.ExtType(5, b"x"),
)  # fmt: skip


def head_of(number: int, header: bytes, body: int, flags: int = 0, major: int = wire.MAJOR) -> bytes:
    """A head with a right checksum over whatever it says."""
    fixed = _FIXED.pack(wire.MAGIC, major, wire.MINOR, number, flags, len(header), body)
    return fixed + struct.pack("<Q", xxhash.xxh3_64_intdigest(fixed + header)) + header


def flip(rng: random.Random, data: bytes, most: int = 1) -> bytes:
    found = bytearray(data)
    for bit in rng.sample(range(len(found) * 8), rng.randint(1, min(most, len(found) * 8))):
        found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


# --- frames of the handoff ----------------------------------------------------------------------------------


def _flip_head(rng: random.Random, head: bytes, body: bytes) -> Parts:
    return _parts(flip(rng, head, 3), body)


def _cut_head(rng: random.Random, head: bytes, body: bytes) -> Parts:
    return _parts(head[: rng.randrange(1, len(head))], body)


def _more_head(rng: random.Random, head: bytes, body: bytes) -> Parts:
    return _parts(head + rng.randbytes(rng.randint(1, 5000)), body)


def _cut_body(rng: random.Random, head: bytes, body: bytes) -> Parts:
    return _parts(head, body[: rng.randrange(len(body))] if body else b"x")


def _more_body(rng: random.Random, head: bytes, body: bytes) -> Parts:
    return _parts(head, body + rng.randbytes(rng.randint(1, 64)))


def _swapped(rng: random.Random, head: bytes, body: bytes) -> Parts:
    return [body, head] if body else [b"x", head]


def _many_parts(rng: random.Random, head: bytes, body: bytes) -> Parts:
    return [head, body or b"x", b"x", *(b"y" for _ in range(rng.randint(1, 20)))]


def _noise(rng: random.Random, head: bytes, body: bytes) -> Parts:
    return _parts(rng.randbytes(rng.randint(1, 200)), body)


def _lengths(rng: random.Random, head: bytes, body: bytes) -> Parts:
    """Lengths of up to 4 GiB and more, under a right checksum."""
    number = struct.unpack_from("<H", head, 6)[0]
    long = rng.choice([4097, 65537, 1 << 31, (1 << 32) - 1])
    fixed = _FIXED.pack(wire.MAGIC, wire.MAJOR, 0, number, 0, long, rng.choice([0, 1 << 32, (1 << 64) - 1]))
    header = head[wire.PREAMBLE_BYTES :]
    return _parts(fixed + struct.pack("<Q", xxhash.xxh3_64_intdigest(fixed + header)) + header, body)


def _long_header(rng: random.Random, head: bytes, body: bytes) -> Parts:
    """A header over the cap: 4 KiB + 1, or 64 KiB + 1."""
    return _parts(head_of(rng.randint(1, 8), rng.randbytes(rng.choice([4097, 65537])), len(body)), body)


def _other_type(rng: random.Random, head: bytes, body: bytes) -> Parts:
    number = rng.choice([0, 9, 255, 65535])
    return _parts(head_of(number, head[wire.PREAMBLE_BYTES :], len(body)), body)


def _other_major(rng: random.Random, head: bytes, body: bytes) -> Parts:
    number = struct.unpack_from("<H", head, 6)[0]
    major = rng.choice([0, 2, 3, 255])
    return _parts(head_of(number, head[wire.PREAMBLE_BYTES :], len(body), major=major), body)


def _bomb(rng: random.Random, head: bytes, body: bytes) -> Parts:
    number = struct.unpack_from("<H", head, 6)[0]
    return _parts(head_of(number, rng.choice(BOMBS), len(body)), body)


def _fields(rng: random.Random, head: bytes, body: bytes) -> Parts:
    """Wrong keys and wrong types, under a right checksum."""
    number = struct.unpack_from("<H", head, 6)[0]
    header = _wrong_map(rng, msgpack.unpackb(head[wire.PREAMBLE_BYTES :]))
    return _parts(head_of(number, header, len(body)), body)


FRAME_KINDS: tuple[Callable[[random.Random, bytes, bytes], Parts], ...] = (
    _flip_head, _flip_head, _flip_head, _cut_head, _more_head, _cut_body, _more_body, _swapped, _many_parts,
    _noise, _lengths, _long_header, _other_type, _other_major, _bomb, _fields, _fields,
)  # fmt: skip


def frame(rng: random.Random, head: bytes, body: bytes) -> Parts:
    """A frame that is refused by its head alone, whoever sends it."""
    while (parts := rng.choice(FRAME_KINDS)(rng, head, body)) == _parts(head, body):
        pass
    return parts


def _parts(head: bytes, body: bytes) -> Parts:
    return [head, body] if body else [head]


# --- messages of the mailbox --------------------------------------------------------------------------------


def message(rng: random.Random, data: bytes) -> Parts:
    """A message that nobody can read."""
    while True:
        parts = _message(rng, data)
        if parts != [data]:
            return parts


def _message(rng: random.Random, data: bytes) -> Parts:
    match rng.randrange(10):
        case 0 | 1 | 2:
            return [flip(rng, data, 4)]
        case 3:
            return [data[: rng.randrange(len(data))]]
        case 4:
            return [data, data] if rng.random() < 0.5 else [data, *(b"x" for _ in range(rng.randint(1, 20)))]
        case 5:
            return [rng.randbytes(rng.randint(0, 300))]
        case 6:
            return [_seal(rng.choice(BOMBS))]
        case 7:
            return [_seal(_ENVELOPE + b"\xa5Hello" + rng.choice(BOMBS))]
        case 8:
            name = rng.choice(["hello", "Welcome2", "SamplingParams", "__class__", "x" * 4000, ""])
            return [_seal(msgpack.packb([LEVEL, name, unpacked(data)[1]]))]
        case _:
            name, fields = unpacked(data)
            return [_seal(_ENVELOPE + msgpack.packb(name) + _wrong_map(rng, fields))]


def unpacked(data: bytes) -> tuple[str, Any]:
    """A message's type name and fields."""
    _, name, fields = msgpack.unpackb(data[8:], strict_map_key=False)
    return name, fields


def _seal(packed: bytes) -> bytes:
    return xxhash.xxh3_64_digest(packed) + packed


def _wrong_map(rng: random.Random, fields: dict[str, Any]) -> bytes:
    """The map with a key too many, too few or twice, or a value of another type."""
    key = rng.choice(sorted(fields))
    match rng.randrange(4):
        case 0:
            return bytes(msgpack.packb(fields | {"more": rng.choice(_VALUES)}))
        case 1:
            return bytes(msgpack.packb({k: v for k, v in fields.items() if k != key}))
        case 2:
            pairs = [*fields.items(), (key, fields[key])]
            return bytes([0x80 | len(pairs)] if len(pairs) < 16 else [0xDE, 0, len(pairs)]) + b"".join(
                msgpack.packb(k) + msgpack.packb(v) for k, v in pairs
            )
        case _:
            others = [v for v in _VALUES if type(v) is not type(fields[key])]
            if fields[key] is None:  # where it may be, a number may be as well
                others = [v for v in others if type(v) is not int]
            elif type(fields[key]) is int:
                others = [v for v in others if v is not None]
            return bytes(msgpack.packb(fields | {key: rng.choice(others)}))
