"""Frames of the handoff to bytes and back, strictly.

A frame is a 32-byte preamble, a msgpack header with exactly the fields of its type's dataclass (of a
neighbouring minor version: what ``pagewire.typed`` allows), and a raw body. Knows bytes, checksums and their
caps; knows no state, socket or clock. Anything that ``encode`` could not have made raises
RemoteProtocolError, before memory is taken for it.

    preamble, little-endian: magic "PWKV" | major u8 | minor u8 | type u16 | flags u32 | header bytes u32
                             | body bytes u64 | xxh3-64 of the 24 bytes before it and of the header, u64

Bodies carry their xxh3-64 in the header; one of DATA that stays in a device's memory carries what the device
makes of it instead. DATA's is left to the receiver, who must first look whether the frame has any business
there; those of RESERVE and COMMIT are checked here.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple, NewType, Protocol

import msgpack
import xxhash

from pagewire.codec import build, unpack
from pagewire.errors import LocalProtocolError, RemoteProtocolError
from pagewire.layout import KVLayout

TransferId = NewType("TransferId", str)  # 32 hex digits, drawn at random by the sender

MAGIC = b"PWKV"
MAJOR, MINOR = 1, 0  # only neighbouring minors understand each other; pagewire.schema says when it is raised
MAX_HEADER_BYTES = 4096
MAX_BODY_BYTES = 8 << 20
MAX_TOKENS = 1 << 24
MAX_REASON = 512

Buffer = bytes | bytearray | memoryview


class DeviceBody(Protocol):
    """A body that lies in a device's memory: measured, checked and written, and never read here."""

    def __len__(self) -> int:
        """In bytes."""
        ...

    def checksum(self) -> int:
        """64 bits that whoever has the same bytes on a device finds as well."""
        ...


Body = Buffer | DeviceBody
_FIXED = struct.Struct("<4sBBHIIQ")
_CHECK = struct.Struct("<Q")
PREAMBLE_BYTES = _FIXED.size + _CHECK.size
_HEX = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class _Header:
    """What every header says: whose transfer, and in which life of its process the author speaks."""

    transfer: TransferId
    epoch: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.transfer):
            raise LocalProtocolError("a transfer id is 32 hex digits")
        _text("epoch", self.epoch, 64)

    @property
    def name(self) -> str:
        """The frame's name, such as "RESERVE"."""
        return type(self).__name__.upper()


@dataclass(frozen=True, slots=True)
class Reserve(_Header):
    """Sender: have you room for ``num_tokens``? The body describes the request, opaquely."""

    num_tokens: int
    layout: KVLayout
    deadline_ms: int  # what is left, so that clocks need not agree
    checksum: int

    def __post_init__(self) -> None:
        _Header.__post_init__(self)
        _whole("num_tokens", self.num_tokens, 1, MAX_TOKENS)
        _whole("deadline_ms", self.deadline_ms, 1, 1 << 32)


@dataclass(frozen=True, slots=True)
class Grant(_Header):
    """Receiver: yes. ``allowed_bytes`` counts from the transfer's start and only ever grows (see Credit)."""

    have_tokens: int
    allowed_bytes: int
    frame_bytes: int  # the largest body to send

    def __post_init__(self) -> None:
        _Header.__post_init__(self)
        _whole("have_tokens", self.have_tokens, 0, MAX_TOKENS)
        _whole("allowed_bytes", self.allowed_bytes, 0, 1 << 62)
        _whole("frame_bytes", self.frame_bytes, 1, MAX_BODY_BYTES)


@dataclass(frozen=True, slots=True)
class Refuse(_Header):
    """Receiver: no, and whether it is worth asking again."""

    code: str
    reason: str
    retryable: bool

    def __post_init__(self) -> None:
        _Header.__post_init__(self)
        _text("code", self.code, 64)
        _text("reason", self.reason, MAX_REASON)


@dataclass(frozen=True, slots=True)
class Data(_Header):
    """Sender: the body is the slab ``[layers, 2, tokens, kv_heads, head_dim]`` of these ranges."""

    seq: int
    token_start: int
    token_stop: int
    layer_start: int
    layer_stop: int
    checksum: int

    def __post_init__(self) -> None:
        _Header.__post_init__(self)
        _whole("seq", self.seq, 0, 1 << 40)
        _whole("token_stop", self.token_stop, 1, MAX_TOKENS)
        _whole("token_start", self.token_start, 0, self.token_stop - 1)
        _whole("layer_stop", self.layer_stop, 1, 1 << 16)
        _whole("layer_start", self.layer_start, 0, self.layer_stop - 1)


@dataclass(frozen=True, slots=True)
class Credit(_Header):
    """Receiver: ``taken_bytes`` are in the pages, ``allowed_bytes`` may have been sent in all.

    Both are totals since the start, so that a lost, repeated or overtaken CREDIT does no harm.
    """

    taken_bytes: int
    allowed_bytes: int

    def __post_init__(self) -> None:
        _Header.__post_init__(self)
        _whole("allowed_bytes", self.allowed_bytes, 0, 1 << 62)
        _whole("taken_bytes", self.taken_bytes, 0, self.allowed_bytes)


@dataclass(frozen=True, slots=True)
class Commit(_Header):
    """Sender: that was all. ``digest`` is over the checksums of all frames in the order of ``seq``."""

    frames: int
    bytes: int
    digest: int
    checksum: int

    def __post_init__(self) -> None:
        _Header.__post_init__(self)
        _whole("frames", self.frames, 0, 1 << 40)
        _whole("bytes", self.bytes, 0, 1 << 62)


@dataclass(frozen=True, slots=True)
class Adopted(_Header):
    """Receiver: the KV is mine now. ``landing_us`` is the time that it worked to take the frames in."""

    landing_us: int

    def __post_init__(self) -> None:
        _Header.__post_init__(self)
        _whole("landing_us", self.landing_us, 0, 1 << 62)


@dataclass(frozen=True, slots=True)
class Abort(_Header):
    """Either side: it is over. Idempotent, and never answered."""

    code: str
    reason: str

    def __post_init__(self) -> None:
        _Header.__post_init__(self)
        _text("code", self.code, 64)
        _text("reason", self.reason, MAX_REASON)


Message = Reserve | Grant | Refuse | Data | Credit | Commit | Adopted | Abort
TYPES: tuple[type[Any], ...] = (Reserve, Grant, Refuse, Data, Credit, Commit, Adopted, Abort)
_NUMBER = {cls: number for number, cls in enumerate(TYPES, start=1)}
_WITH_BODY = (Reserve, Data, Commit)
_NAMES = {cls: tuple(cls.__dataclass_fields__) for cls in TYPES}


class OtherVersion(RemoteProtocolError):
    """The frame is of a version that we do not know enough of to read it."""


class Preamble(NamedTuple):
    cls: type[Any]
    header_bytes: int
    body_bytes: int
    check: int
    skew: int  # of the author's minor version, from ours


def checksum(data: Body) -> int:
    """xxh3-64, or the device's own: finds accidents. Against forgery stands the mutual authentication of the
    transport.
    """
    return xxhash.xxh3_64_intdigest(data) if isinstance(data, Buffer) else data.checksum()


def digest(checksums: list[int]) -> int:
    """One number for all frames of a transfer, from their checksums in the order of ``seq``."""
    return xxhash.xxh3_64_intdigest(struct.pack(f"<{len(checksums)}Q", *checksums))


def encode(message: Message, body: Body = b"") -> bytes:
    """Preamble and header of a frame; the caller sends ``body`` behind it. Raises LocalProtocolError."""
    cls = type(message)
    if len(body) > MAX_BODY_BYTES or (len(body) and cls not in _WITH_BODY):
        raise LocalProtocolError(f"{cls.__name__} cannot carry a body of {len(body)} bytes")
    header = msgpack.packb({name: getattr(message, name) for name in _NAMES[cls]}, default=_layout_map)
    if len(header) > MAX_HEADER_BYTES:
        raise LocalProtocolError(f"a header of {len(header)} bytes is over the limit")
    fixed = _FIXED.pack(MAGIC, MAJOR, MINOR, _NUMBER[cls], 0, len(header), len(body))
    return b"".join((fixed, _CHECK.pack(checksum(fixed + header)), header))


def decode_preamble(data: Buffer) -> Preamble:
    """Read the first 32 bytes and hold them against the caps. Raises RemoteProtocolError."""
    if len(data) < PREAMBLE_BYTES:
        raise RemoteProtocolError("frame shorter than its preamble")
    magic, major, minor, number, _flags, header_bytes, body_bytes = _FIXED.unpack_from(data)
    if magic != MAGIC:
        raise RemoteProtocolError("not a frame of pagewire")
    skew = minor - MINOR
    if major != MAJOR or abs(skew) > 1:
        raise OtherVersion(f"the peer speaks version {major}.{minor} of the handoff, we {MAJOR}.{MINOR}")
    if not 1 <= number <= len(TYPES):
        raise (OtherVersion if skew > 0 else RemoteProtocolError)(f"unknown frame type {number}")
    cls = TYPES[number - 1]
    if header_bytes > MAX_HEADER_BYTES or body_bytes > (MAX_BODY_BYTES if cls in _WITH_BODY else 0):
        raise RemoteProtocolError(f"{cls.__name__} of {header_bytes} + {body_bytes} bytes is over the limit")
    return Preamble(cls, header_bytes, body_bytes, _CHECK.unpack_from(data, _FIXED.size)[0], skew)


def decode(head: Buffer, body: Body = b"") -> Message:
    """The message in ``head``, whose body is ``body``. Raises RemoteProtocolError."""
    preamble = decode_preamble(head)
    view = memoryview(head)
    header = view[PREAMBLE_BYTES:]
    if len(header) != preamble.header_bytes or len(body) != preamble.body_bytes:
        raise RemoteProtocolError("frame lengths do not agree with the preamble")
    if checksum(b"".join((view[: _FIXED.size], header))) != preamble.check:
        raise RemoteProtocolError("header checksum does not match")
    message: Message = build(preamble.cls, unpack(header), preamble.skew)
    if isinstance(message, Reserve | Commit):
        if not isinstance(body, Buffer):
            raise RemoteProtocolError("a payload in a device's memory")
        if checksum(body) != message.checksum:
            raise RemoteProtocolError("payload checksum does not match")
    return message


def _layout_map(value: object) -> dict[str, Any]:
    assert isinstance(value, KVLayout), f"{type(value).__name__} in a header"
    return {name: getattr(value, name) for name in KVLayout.__dataclass_fields__}


def _whole(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LocalProtocolError(f"{name} must be from {low} to {high}, not {value}")


def _text(name: str, value: str, longest: int) -> None:
    if len(value) > longest:
        raise LocalProtocolError(f"{name} is longer than {longest} characters")
