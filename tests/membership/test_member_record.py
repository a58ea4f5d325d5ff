from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import KEY, ROUTER_A, record

from pagewire.errors import ConfigError, RemoteProtocolError
from pagewire.membership import record as records
from pagewire.membership.record import KINDS, MAX_BYTES, Record, can_be_dialled, key_of, read, sign

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=128)
WORDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=256)
MODELS = st.text(max_size=256).filter(str.isprintable)
RECORDS = st.builds(
    Record,
    cluster=NAMES,
    kind=st.sampled_from(KINDS[1:]),
    name=NAMES,
    epoch=NAMES,
    generation=st.integers(0, (1 << 63) - 1),
    address=WORDS,
    version=WORDS,
    model=MODELS,
)


@given(RECORDS)
def test_a_record_is_read_as_it_was_signed(made: Record) -> None:
    assert read(sign(made, KEY), KEY) == made


def test_the_largest_record_fits() -> None:
    longest, widest = "n" * 128, "\N{GRINNING FACE}" * 256
    large = Record(
        cluster=longest,
        kind="prefill",
        name=longest,
        epoch=longest,
        generation=(1 << 63) - 1,
        address="a" * 256,
        version="v" * 256,
        model=widest,
    )
    assert len(sign(large, KEY)) <= MAX_BYTES


@given(RECORDS, st.data())
def test_one_bit_is_enough_to_refuse_it(made: Record, data: Any) -> None:
    signed = bytearray(sign(made, KEY))
    signed[data.draw(st.integers(0, len(signed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RemoteProtocolError):
        read(bytes(signed), KEY)


@given(st.binary(max_size=300))
def test_what_nobody_signed_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(data, KEY)


def test_another_secret_is_another_cluster() -> None:
    with pytest.raises(RemoteProtocolError, match="signature"):
        read(sign(ROUTER_A, key_of(b"t" * 32)), KEY)


def signed(packed: Any) -> bytes:
    data = msgpack.packb(packed)
    return records.hmac.digest(KEY, data, "sha256") + data


PLAIN = {f.name: getattr(ROUTER_A, f.name) for f in fields(Record)}


def test_a_newer_version_may_say_more() -> None:
    assert read(signed(PLAIN | {"topology": "z/r/h"}), KEY) == ROUTER_A


@pytest.mark.parametrize(
    "packed",
    [
        [],
        "router",
        {name: value for name, value in PLAIN.items() if name != "epoch"},
        PLAIN | {"generation": "1"},
        PLAIN | {"generation": -1},
        PLAIN | {"generation": True},
        PLAIN | {"kind": "king"},
        PLAIN | {"name": ""},
        PLAIN | {"name": "a b"},
        PLAIN | {"name": "n" * 129},
        PLAIN | {"address": "tcp://10.0.0.1"},
        PLAIN | {"address": "tcp://0.0.0.0:7500"},
        PLAIN | {"version": "1\x1b[2J"},
        PLAIN | {"model": "m" * 257},
        PLAIN | {"model": "\n"},
        PLAIN | {"more": "x" * MAX_BYTES},
    ],
)
def test_signed_nonsense_is_refused(packed: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        read(signed(packed), KEY)


def test_a_field_that_cannot_be_is_ours_to_mend() -> None:
    with pytest.raises(ConfigError, match="name"):
        record(name="p 1")


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:7500", "tcp://[::1]:1", "tcp://router:65535", "ipc:///r"]
)
def test_addresses_that_nodes_can_dial(address: str) -> None:
    assert can_be_dialled(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "tcp://*:1",
        "tcp://[::]:1",
        "tcp://a:0",
        "tcp://a:65536",
        "tcp://a:1/x",
        "tcp://u@a:1",
        "ipc://",
        "udp://a:1",
    ],
)
def test_addresses_that_nodes_cannot_dial(address: str) -> None:
    assert not can_be_dialled(address)


def test_of_two_lives_the_later_announced_is_the_newer() -> None:
    older, newer = replace(ROUTER_A, generation=1, epoch="z"), replace(ROUTER_A, generation=2, epoch="a")
    assert older.age < newer.age
