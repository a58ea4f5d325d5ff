from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.transports.ring import START, Ref, RingReader, RingWriter
from pagewire.errors import RemoteProtocolError

TARGET = memoryview(bytearray(100))


def _put(writer: RingWriter, body: bytes) -> Ref | None:
    if (room := writer.claim(len(body))) is None:
        return None
    room[:] = body
    ref = writer.claimed(room)
    assert ref is not None
    writer.keep(ref)
    return ref


@pytest.fixture
def ring() -> Iterator[tuple[RingWriter, RingReader]]:
    writer = RingWriter(100)
    reader = RingReader(writer.offer)
    yield writer, reader
    reader.close()
    writer.close()


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=60), st.none()), max_size=60))
def test_bodies_come_out_as_they_went_in_however_the_ring_wraps(steps: list[bytes | None]) -> None:
    writer = RingWriter(100)
    reader = RingReader(writer.offer)
    queue: deque[tuple[Ref, bytes]] = deque()
    for body in steps:
        if body is None and queue:
            ref, expected = queue.popleft()
            assert reader.copy(ref, TARGET) == expected
            writer.release(ref.end)
        elif body is not None and (ref := _put(writer, body)) is not None:
            queue.append((ref, body))
        assert all(reader.copy(ref, TARGET) == expected for ref, expected in queue)
    reader.close()
    writer.close()


def test_a_full_ring_says_so_until_room_is_handed_back(ring: tuple[RingWriter, RingReader]) -> None:
    writer, _ = ring
    ref = _put(writer, bytes(80))
    assert ref is not None
    assert _put(writer, bytes(30)) is None
    writer.release(ref.end)
    assert _put(writer, bytes(30)) is not None


def test_room_that_was_not_kept_is_given_out_again(ring: tuple[RingWriter, RingReader]) -> None:
    writer, _ = ring
    for _ in range(3):
        assert writer.claim(80) is not None
    assert writer.used == 0


def test_the_same_quarter_is_used_again_while_the_reader_keeps_up() -> None:
    writer, under_way = RingWriter(100), deque[Ref]()
    for _ in range(50):
        ref = _put(writer, bytes(10))
        assert ref is not None
        assert ref.offset + ref.size <= START + 30
        under_way.append(ref)
        if len(under_way) == 2:
            writer.release(under_way.popleft().end)
    writer.close()


def test_a_body_finds_room_wherever_an_empty_ring_stands(ring: tuple[RingWriter, RingReader]) -> None:
    writer, _ = ring
    ref = _put(writer, bytes(60))
    assert ref is not None
    writer.release(ref.end)
    assert _put(writer, bytes(90)) is not None


def test_memory_from_elsewhere_is_not_in_the_ring(ring: tuple[RingWriter, RingReader]) -> None:
    writer, _ = ring
    stale = writer.claim(10)
    writer.claim(10)
    assert stale is not None
    assert writer.claimed(bytes(10)) is writer.claimed(stale) is None


@pytest.mark.parametrize("end", [-1, 0, 81, 1 << 60])
def test_room_that_is_not_in_use_cannot_be_handed_back(ring: tuple[RingWriter, RingReader], end: int) -> None:
    writer, _ = ring
    _put(writer, bytes(80))
    writer.release(end)
    assert writer.used == 80


@pytest.mark.parametrize(
    "ref", [Ref(0, 10, 1), Ref(1 << 40, 10, 1), Ref(4096, 101, 1), Ref(4096, 1 << 63, 1)]
)
def test_a_reference_outside_is_refused(ring: tuple[RingWriter, RingReader], ref: Ref) -> None:
    with pytest.raises(RemoteProtocolError, match="outside"):
        ring[1].copy(ref, TARGET)


def test_a_segment_that_could_shrink_under_us_is_refused() -> None:
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096 + 100)
    writer = RingWriter(100)
    offer = writer.offer.replace(writer._fd.to_bytes(8, "little"), fd.to_bytes(8, "little"), 1)
    with pytest.raises(RemoteProtocolError, match="not sealed"):
        RingReader(offer)
    os.close(fd)
    writer.close()


def test_another_segment_than_the_offered_one_is_refused() -> None:
    one, two = RingWriter(100), RingWriter(100)
    with pytest.raises(RemoteProtocolError, match="another"):
        RingReader(one.offer[:-16] + two.offer[-16:])
    one.close()
    two.close()


@pytest.mark.parametrize("offer", [b"", b"\0" * 40, b"\xff" * 40])
def test_an_offer_that_cannot_be_is_refused(offer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        RingReader(offer)
