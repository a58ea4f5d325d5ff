"""What NIXL links say: bytes to numbers and back, and what lies in lent memory."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.transports.nixl_card import CARD, Card
from kv_transfer.transports.nixl_words import LENT, READ, READY, Word
from kv_transfer.transports.ring import START, Offer, Ref
from kv_transfer.wire import MAX_BODY_BYTES
from pagewire.errors import RemoteProtocolError

WHOLE = st.integers(0, (1 << 64) - 1)


@given(st.integers(0, 1 << 63), st.integers(1, 1 << 32), st.binary(min_size=16, max_size=16), st.binary())
def test_a_card_is_what_it_was(address: int, size: int, nonce: bytes, metadata: bytes) -> None:
    card = Card(address, Offer(1, 2, size, nonce), metadata)
    assert Card.unpack(card.pack()) == card


@given(st.binary(max_size=80))
def test_anything_else_is_a_card_or_refused(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert Card.unpack(CARD + data).pack() == CARD + data


def test_a_card_of_more_than_there_can_be_is_refused() -> None:
    for address, size, more in ((0, 1 << 33, 0), ((1 << 64) - 1, 1, 0), (0, 1, 1 << 20)):
        with pytest.raises(RemoteProtocolError):
            Card.unpack(Card(address, Offer(1, 2, size, b"n" * 16), bytes(more)).pack())


@given(st.integers(1, 1 << 26), WHOLE, WHOLE)
def test_only_what_lies_in_lent_memory_can_be_read(size: int, offset: int, length: int) -> None:
    card = Card(0, Offer(1, 2, size, b"n" * 16), b"")
    inside = range(START, START + size)
    expected = 0 < length <= MAX_BODY_BYTES and offset in inside and offset + length - 1 in inside
    assert card.has(Ref(offset, length, 0)) == expected
    assert card.has(Ref(START, min(size, MAX_BODY_BYTES), 0))
    assert not card.has(Ref(START + 1, size, 0))


@pytest.mark.parametrize(
    "word", [Word(READY), Word(READ, (1, 2, 3, 4, (1 << 64) - 1)), Word(LENT, (1, 2), b"metadata")]
)
def test_a_word_is_what_it_was(word: Word) -> None:
    assert Word.of(word.parts()) == word


@given(st.lists(st.binary(max_size=48), max_size=4))
def test_anything_else_is_a_word_or_refused(parts: list[bytes]) -> None:
    with suppress(RemoteProtocolError):
        assert list(Word.of(parts).parts()) == parts
