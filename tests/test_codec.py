"""Every message survives the trip; whatever else arrives is refused, by RemoteProtocolError alone."""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire import messages
from pagewire.codec import MAX_MESSAGE_BYTES, Codec, seal, unpack
from pagewire.errors import RemoteProtocolError
from pagewire.layout import DTYPE_BYTES, KVLayout
from pagewire.messages import Beat, Cancel, Load, PrefillRequest, TokenItem, Welcome
from pagewire.sampling import SamplingParams
from pagewire.schema import fingerprint
from pagewire.typed import build
from pagewire.versions import LEVEL

CLASSES = [
    c for c in vars(messages).values() if dataclasses.is_dataclass(c) and c.__module__ == messages.__name__
]
CODEC = Codec(*CLASSES)

ints = st.integers(-(2**63), 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
st.register_type_strategy(int, ints)
st.register_type_strategy(str, texts)
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(
    KVLayout,
    st.builds(
        KVLayout,
        layers=st.integers(1, 99),
        kv_heads=st.integers(1, 99),
        head_dim=st.integers(1, 99),
        dtype=st.sampled_from(sorted(DTYPE_BYTES)),
    ),
)
st.register_type_strategy(
    SamplingParams,
    st.builds(
        SamplingParams,
        n=st.integers(1, 16),
        temperature=st.floats(0, 2),
        top_p=st.floats(0.1, 1),
        top_k=st.integers(-1, 100),
        min_p=st.floats(0, 1),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        repetition_penalty=st.floats(0.5, 2),
        logit_bias=st.dictionaries(st.integers(0, 2**31), st.floats(-100, 100), max_size=3),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        max_tokens=st.none() | st.integers(5, 100),
        min_tokens=st.integers(0, 5),
        stop=st.lists(texts.filter(bool), max_size=3).map(tuple),
        stop_token_ids=st.lists(st.integers(0, 2**31), max_size=3).map(tuple),
        logprobs=st.none() | st.integers(0, 20),
        prompt_logprobs=st.none() | st.integers(0, 20),
    ),
)

CANCEL = CODEC.encode(Cancel(messages.RequestId("r"), 1))


def refused(data: bytes, codec: Codec = CODEC) -> bool:
    with pytest.raises(RemoteProtocolError):
        codec.decode(data)
    return True


ENVELOPE = b"\x93" + bytes(msgpack.packb(LEVEL))


def pack(value: Any) -> bytes:
    """``value`` as a message, with a right checksum."""
    return seal(msgpack.packb(value))


def said(name: Any, body: Any) -> bytes:
    """A message of our version."""
    return pack([LEVEL, name, body])


def unpacked(message: object) -> Any:
    """Its type name and fields."""
    level, name, body = msgpack.unpackb(CODEC.encode(message)[8:], strict_map_key=False)
    assert level == LEVEL
    return name, body


# --- the trip ---


def test_the_messages_are_found() -> None:
    assert {messages.Hello, messages.PrefillRequest, messages.Tokens, messages.Handoff} <= set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_message_survives_the_trip(cls: type) -> None:
    @given(st.from_type(cls))
    @settings(deadline=None, max_examples=25)
    def check(message: object) -> None:
        data = CODEC.encode(message)
        assert CODEC.decode(data) == message
        assert CODEC.decode(memoryview(data)) == message
        assert CODEC.encode(CODEC.decode(data)) == data

    check()


def test_an_infinite_logprob_survives() -> None:
    item = TokenItem(messages.RequestId("r"), 1, 0, 0, 5, -math.inf)
    assert CODEC.decode(CODEC.encode(item)) == item


def test_a_whole_number_is_taken_for_a_float() -> None:
    load = dataclasses.asdict(Load(gauges={"a": 1}))
    data = said("Beat", {"node": "n", "epoch": "e", "load": load, "role": "", "draining": False})
    (gauge,) = CODEC.decode(data).load.gauges.values()
    assert type(gauge) is float


def test_a_class_outside_the_codec_is_not_sent() -> None:
    with pytest.raises(AssertionError, match="not in this codec"):
        Codec(Cancel).encode(Welcome(messages.NodeId("n"), messages.Epoch("e")))


# --- refusals ---

CANCELLED = {"request": "r", "attempt": 1, "choice": None}


@pytest.mark.parametrize(
    "value",
    [
        None,
        "Cancel",
        [],
        ["Cancel"],
        [LEVEL, "Cancel"],
        ["Cancel", CANCELLED],
        [LEVEL, "Cancel", CANCELLED, 3],
        [str(LEVEL), "Cancel", CANCELLED],
        [float(LEVEL), "Cancel", CANCELLED],
        [None, "Cancel", CANCELLED],
        [LEVEL - 2, "Cancel", CANCELLED],
        [LEVEL + 2, "Cancel", CANCELLED],
        [LEVEL, b"Cancel", CANCELLED],
        [LEVEL, "cancel", CANCELLED],
        [LEVEL, ["Cancel"], CANCELLED],
        [LEVEL, "SamplingParams", {}],
        [LEVEL, "Cancel", None],
        [LEVEL, "Cancel", [["request", "r"], ["attempt", 1]]],
        [LEVEL, "Cancel", {"request": "r", "choice": None}],
        [LEVEL, "Cancel", {"request": "r", "attempt": 1}],
        [LEVEL, "Cancel", {"request": "r", "attempt": 1, "choice": "1"}],
        [LEVEL, "Cancel", {"request": "r", "attempt": 1, "choice": None, "more": 2}],
        [LEVEL, "Cancel", {"request": "r", "attempt": "1", "choice": None}],
        [LEVEL, "Cancel", {"request": "r", "attempt": 1.0, "choice": None}],
        [LEVEL, "Cancel", {"request": "r", "attempt": True, "choice": None}],
        [LEVEL, "Cancel", {"request": "r", "attempt": None, "choice": None}],
        [LEVEL, "Cancel", {"request": b"r", "attempt": 1, "choice": None}],
        [LEVEL, "Cancel", {"request": "r", "attempt": msgpack.Timestamp(1, 0), "choice": None}],
        [LEVEL, "FirstTokens", {"items": {}}],
        [LEVEL, "FirstTokens", {"items": [{}]}],
    ],
    ids=repr,
)
def test_refuses_what_is_not_a_message(value: Any) -> None:
    assert refused(pack(value))


def fields_of(message: Any, **changed: Any) -> bytes:
    name, body = unpacked(message)
    return said(name, body | changed)


ITEM = TokenItem(messages.RequestId("r"), 1, 0, 0, 5, -1.0, [(3, -0.5)])


@pytest.mark.parametrize(
    "top",
    [[[3]], [[3, -0.5, 1]], [[3, "x"]], [[3.0, -0.5]], [3], {"3": -0.5}, None, [[3, math.nan]]],
    ids=repr,
)
def test_refuses_a_pair_of_the_wrong_shape(top: Any) -> None:
    assert refused(fields_of(ITEM, top=top))


def test_refuses_nan() -> None:
    assert refused(fields_of(ITEM, logprob=math.nan))


def test_refuses_a_value_out_of_its_range() -> None:
    request = PrefillRequest(
        *(messages.RequestId("r"), 1, [0], [1], 1, SamplingParams(logit_bias={4: 1.0}), 0, "", 9),
        messages.DecodeTarget(messages.NodeId("d"), messages.Epoch("e"), "a"),
    )
    name, body = unpacked(request)
    body["sampling"]["top_p"] = 2.0
    assert refused(said(name, body))


def test_refuses_a_layout_without_bytes() -> None:
    layout = {"layers": 1, "kv_heads": 1, "head_dim": 8, "dtype": "float99", "model": "m"}
    with pytest.raises(RemoteProtocolError, match="float99"):
        build(KVLayout, layout)


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\xa7request\xa1r\xa7request\xa1s",  # one key twice
        b"\x82\x01\x01\xc3\x02",  # 1 and true are one key
        b"\x81\x90\x01",  # a list as key
        b"\x81\x80\x01",  # a map as key
        b"\xd4\x05\x00",  # ext
        b"\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp out of range
        b"\xc1",  # a byte that msgpack never uses
        b"\xa1\xff",  # not UTF-8
        b"\xa3\xed\xa0\x80",  # a lone surrogate
        b"\xdd\xff\xff\xff\xff",  # lists, maps, strings that claim 4 GiB
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000 + b"\xc0",  # depth bombs
        b"\x81\xa1a" * 100_000 + b"\xc0",
        b"\x91" * 500 + b"\xc0",
        b"\xcb" + struct.pack(">d", math.nan),
        b"",
    ],
    ids=lambda b: b[:8].hex(),
)
def test_refuses_hostile_msgpack_bare_or_as_the_fields(body: bytes) -> None:
    assert refused(seal(body))
    assert refused(seal(ENVELOPE + b"\xa6Cancel" + body))


@pytest.mark.parametrize("again", [1, 2])
def test_refuses_a_field_given_twice(again: int) -> None:
    packed = CANCEL[8:]
    assert packed.count(b"\x83") == 1
    assert refused(seal(packed.replace(b"\x83", b"\x84") + b"\xa7attempt" + bytes([again])))


def test_refuses_an_ext_type_before_it_reaches_a_field() -> None:
    with pytest.raises(RemoteProtocolError, match="ext types"):
        unpack(b"\xd4\x05\x00")


def test_refuses_bytes_after_the_message() -> None:
    assert refused(seal(CANCEL[8:] + b"\xc0"))


def test_refuses_more_bytes_than_the_limit() -> None:
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        unpack(bytes(MAX_MESSAGE_BYTES + 1))
    assert refused(seal(bytes(MAX_MESSAGE_BYTES)))


def test_a_refusal_does_not_repeat_what_the_peer_sent() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        CODEC.decode(said("x" * 10_000, {}))
    assert len(str(caught.value)) < 200


def test_an_annotation_that_cannot_travel_is_a_fault_of_ours() -> None:
    with pytest.raises(TypeError, match="cannot carry"):
        build(set, [])


# --- fuzz ---


def decode_or_refuse(data: bytes) -> Any:
    try:
        return CODEC.decode(data)
    except RemoteProtocolError:
        return None


def flipped(raw: bytes, data: st.DataObject, most: int) -> bytes:
    found = bytearray(raw)
    for bit in data.draw(st.sets(st.integers(0, len(raw) * 8 - 1), min_size=1, max_size=most)):
        found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


@given(st.sampled_from(CLASSES).flatmap(st.from_type), st.data())
@settings(deadline=None, max_examples=300)
def test_flipped_bits_are_refused(message: object, data: st.DataObject) -> None:
    assert refused(flipped(CODEC.encode(message), data, 4))


@given(st.sampled_from(CLASSES).flatmap(st.from_type), st.data())
@settings(deadline=None, max_examples=300)
def test_flipped_bits_under_a_right_checksum_give_a_message_or_a_refusal(
    message: object, data: st.DataObject
) -> None:
    result = decode_or_refuse(seal(flipped(CODEC.encode(message)[8:], data, 4)))
    assert result is None or CODEC.decode(CODEC.encode(result)) == result


@given(st.sampled_from(CLASSES).flatmap(st.from_type))
@settings(deadline=None, max_examples=40)
def test_every_truncation_is_refused(message: object) -> None:
    raw = CODEC.encode(message)
    for end in range(0, len(raw), max(1, len(raw) // 40)):
        assert refused(raw[:end])
        assert refused(seal(raw[8 : max(8, end)]))


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=500)
def test_noise_is_refused(noise: bytes) -> None:
    assert refused(noise)
    assert refused(seal(noise))
    assert refused(seal(ENVELOPE + b"\xa4Beat" + noise))


def test_a_fingerprint_tells_messages_apart() -> None:
    assert fingerprint(Codec(Cancel, Beat)) == fingerprint(Codec(Beat), Codec(Cancel))
    assert len({fingerprint(Codec(cls)) for cls in CLASSES}) == len(CLASSES)
    more = dataclasses.make_dataclass("Cancel", [("request", str), ("attempt", int)], frozen=True)
    assert fingerprint(Codec(more)) != fingerprint(Codec(Cancel))


plain = st.recursive(
    st.none() | st.booleans() | ints | st.floats() | texts | st.binary(max_size=8),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(texts | st.integers(0, 9), v, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(CLASSES), st.data())
@settings(deadline=None, max_examples=300)
def test_a_field_of_another_type_is_refused_or_the_same_message(cls: type, data: st.DataObject) -> None:
    name, body = unpacked(data.draw(st.from_type(cls)))
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(plain)
    result = decode_or_refuse(said(name, body))
    assert result is None or type(result) is cls


def test_a_beat_without_its_load_is_refused_though_the_field_has_a_default() -> None:
    assert refused(said("Beat", {"node": "n", "epoch": "e"}))
    assert CODEC.decode(CODEC.encode(Beat(messages.NodeId("n"), messages.Epoch("e")))).load == Load()
