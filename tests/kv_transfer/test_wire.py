from __future__ import annotations

from dataclasses import dataclass

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer import wire
from kv_transfer.wire import TransferId
from pagewire.errors import LocalProtocolError, RemoteProtocolError
from pagewire.layout import KVLayout

ID = TransferId("0123456789abcdef" * 2)
LAYOUT = KVLayout(2, 1, 4, "bfloat16", "model")
U64 = st.integers(0, 2**64 - 1)
SIZE = st.integers(0, 2**62)
TEXT = st.text(max_size=64)
IDS = st.binary(min_size=16, max_size=16).map(lambda b: TransferId(b.hex()))
BODY = st.binary(max_size=200)


def _data(seq: int, token: int, tokens: int, layer: int, layers: int, check: int) -> wire.Data:
    return wire.Data(ID, "e", seq, token, token + tokens, layer, layer + layers, check)


FRAMES = st.one_of(
    st.tuples(IDS, TEXT, st.integers(1, 1 << 24), st.integers(1, 1 << 32), BODY).map(
        lambda a: (wire.Reserve(a[0], a[1], a[2], LAYOUT, a[3], wire.checksum(a[4])), a[4])
    ),
    st.builds(wire.Grant, IDS, TEXT, st.integers(0, 1 << 24), SIZE, st.integers(1, 1 << 20)).map(
        lambda m: (m, b"")
    ),
    st.builds(wire.Refuse, IDS, TEXT, TEXT, st.text(max_size=512), st.booleans()).map(lambda m: (m, b"")),
    st.tuples(
        st.builds(
            _data,
            st.integers(0, 1 << 40),
            st.integers(0, 1 << 20),
            st.integers(1, 1 << 20),
            st.integers(0, 99),
            st.integers(1, 99),
            U64,
        ),
        BODY,
    ),
    st.builds(lambda t, a, b: wire.Credit(t, "e", min(a, b), max(a, b)), IDS, SIZE, SIZE).map(
        lambda m: (m, b"")
    ),
    st.tuples(IDS, st.integers(0, 1 << 40), SIZE, U64, BODY).map(
        lambda a: (wire.Commit(a[0], "e", a[1], a[2], a[3], wire.checksum(a[4])), a[4])
    ),
    st.builds(wire.Adopted, IDS, TEXT, st.integers(0, 1 << 62)).map(lambda m: (m, b"")),
    st.builds(wire.Abort, IDS, TEXT, TEXT, st.text(max_size=512)).map(lambda m: (m, b"")),
)


@given(FRAMES)
def test_a_frame_comes_back_as_it_was(frame: tuple[wire.Message, bytes]) -> None:
    message, body = frame
    assert wire.decode(wire.encode(message, body), body) == message


@given(FRAMES, st.data())
def test_a_flipped_bit_in_the_head_is_refused(frame: tuple[wire.Message, bytes], data: st.DataObject) -> None:
    message, body = frame
    head = bytearray(wire.encode(message, body))
    bit = data.draw(st.integers(0, len(head) * 8 - 1))
    head[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteProtocolError):
        wire.decode(bytes(head), body)


@given(FRAMES, st.data())
def test_a_truncated_frame_is_refused(frame: tuple[wire.Message, bytes], data: st.DataObject) -> None:
    message, body = frame
    head = wire.encode(message, body)
    with pytest.raises(RemoteProtocolError):
        wire.decode(head[: data.draw(st.integers(0, len(head) - 1))], body)


@given(st.binary(max_size=300), BODY)
def test_noise_is_refused(head: bytes, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode(wire.MAGIC + b"\1\0" + head, body)


def _forge(
    number: int, header: bytes, body: bytes = b"", body_bytes: int | None = None, minor: int = wire.MINOR
) -> bytes:
    """A head with a right checksum over whatever it says."""
    size = len(body) if body_bytes is None else body_bytes
    fixed = wire._FIXED.pack(wire.MAGIC, wire.MAJOR, minor, number, 0, len(header), size)
    return fixed + wire._CHECK.pack(wire.checksum(fixed + header)) + header


ADOPTED = {"transfer": ID, "epoch": "e", "landing_us": 7}


def test_a_forged_head_is_otherwise_good() -> None:
    assert wire.decode(_forge(7, msgpack.packb(ADOPTED))) == wire.Adopted(ID, "e", 7)


@pytest.mark.parametrize(
    "header",
    [
        msgpack.packb({**ADOPTED, "extra": 1}),
        msgpack.packb({"transfer": ID}),
        msgpack.packb({**ADOPTED, "epoch": 5}),
        msgpack.packb({**ADOPTED, "epoch": "e" * 65}),
        msgpack.packb({**ADOPTED, "transfer": "../../etc"}),
        msgpack.packb({**ADOPTED, "epoch": msgpack.ExtType(1, b"x")}),
        msgpack.packb(list(ADOPTED.values())),
        b"\x84" + msgpack.packb("epoch") + msgpack.packb("e") + msgpack.packb(ADOPTED)[1:],
        msgpack.packb(ADOPTED) + b"\0",
        b"\x91" * 2000 + b"\0",
        b"\xdd\xff\xff\xff\xff",
        b"",
    ],
)
def test_a_header_that_is_not_exactly_its_types_is_refused(header: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode(_forge(7, header))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token_start", 8),
        ("token_start", -1),
        ("token_stop", 1 << 60),
        ("layer_start", 9),
        ("seq", -1),
        ("seq", True),
        ("checksum", 1.0),
        ("token_start", float("nan")),
    ],
)
def test_a_range_that_cannot_be_is_refused(field: str, value: object) -> None:
    good = {
        "transfer": ID,
        "epoch": "e",
        "seq": 0,
        "token_start": 0,
        "token_stop": 4,
        "layer_start": 0,
        "layer_stop": 2,
        "checksum": 0,
    }
    with pytest.raises(RemoteProtocolError):
        wire.decode(_forge(4, msgpack.packb(good | {field: value})))


def test_a_body_over_the_cap_is_refused_by_the_preamble_alone() -> None:
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        wire.decode_preamble(_forge(4, b"", body_bytes=wire.MAX_BODY_BYTES + 1))


def test_a_header_over_the_cap_is_refused_by_the_preamble_alone() -> None:
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        wire.decode_preamble(_forge(4, b"x" * (wire.MAX_HEADER_BYTES + 1)))


def test_a_body_where_none_belongs_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        wire.decode(_forge(7, msgpack.packb(ADOPTED), b"x"), b"x")


@pytest.mark.parametrize("number", [0, 9, 65535])
def test_an_unknown_type_is_refused(number: int) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown frame type"):
        wire.decode(_forge(number, b""))


def test_another_major_version_is_refused_by_name() -> None:
    head = bytearray(wire.encode(wire.Adopted(ID, "e", 7)))
    head[4] = 2
    with pytest.raises(RemoteProtocolError, match=r"version 2\.0 .* 1\.0"):
        wire.decode(bytes(head))


@dataclass(frozen=True, slots=True)
class _Adopted(wire.Adopted):
    """As it may be in a later version."""

    pages: int = 4


def test_a_header_of_a_neighbouring_minor_version_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    more = msgpack.packb(ADOPTED | {"pages": 9})
    assert wire.decode(_forge(7, more, minor=wire.MINOR + 1)) == wire.Adopted(ID, "e", 7)
    later = [_Adopted if cls is wire.Adopted else cls for cls in wire.TYPES]
    monkeypatch.setattr(wire, "TYPES", tuple(later))
    monkeypatch.setattr(wire, "MINOR", wire.MINOR + 1)
    assert wire.decode(_forge(7, msgpack.packb(ADOPTED), minor=wire.MINOR - 1)) == _Adopted(ID, "e", 7)
    assert wire.decode(_forge(7, more, minor=wire.MINOR)) == _Adopted(ID, "e", 7, 9)
    for minor, header in ((wire.MINOR - 1, {**ADOPTED, "x": 1}), (wire.MINOR, ADOPTED)):
        with pytest.raises(RemoteProtocolError, match="needs"):
            wire.decode(_forge(7, msgpack.packb(header), minor=minor))


def test_a_minor_version_two_away_and_a_newer_frame_are_told_apart_from_malformed_ones() -> None:
    for minor, number in ((wire.MINOR + 2, 7), (wire.MINOR + 1, len(wire.TYPES) + 1)):
        with pytest.raises(wire.OtherVersion):
            wire.decode(_forge(number, msgpack.packb(ADOPTED), minor=minor))


def test_a_payload_that_was_changed_is_refused() -> None:
    head = wire.encode(wire.Commit(ID, "e", 1, 1, 1, wire.checksum(b"first")), b"first")
    with pytest.raises(RemoteProtocolError, match="payload checksum"):
        wire.decode(head, b"fisrt")


def test_we_do_not_send_what_the_other_side_would_refuse() -> None:
    with pytest.raises(LocalProtocolError):
        wire.encode(wire.Adopted(ID, "e", 7), b"body")


@given(st.lists(U64, unique=True, min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_the_digest_depends_on_the_order(checksums: list[int], random) -> None:
    shuffled = random.sample(checksums, len(checksums))
    assert (wire.digest(shuffled) == wire.digest(checksums)) == (shuffled == checksums)
