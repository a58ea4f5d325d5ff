from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.transports.ring import Ref, RingReader, RingWriter
from pagewire.errors import RemoteProtocolError


@pytest.fixture
def ring() -> Iterator[tuple[RingWriter, RingReader]]:
    writer = RingWriter(100)
    reader = RingReader(writer.offer)
    yield writer, reader
    reader.close()
    writer.close()


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=60), st.none()), max_size=60))
def test_bodies_come_out_as_they_went_in_however_the_ring_wraps(steps: list[bytes | None]) -> None:
    writer = RingWriter(100)
    reader = RingReader(writer.offer)
    queue: deque[tuple[Ref, bytes]] = deque()
    for body in steps:
        if body is None and queue:
            ref, expected = queue.popleft()
            assert reader.copy(ref) == expected
            writer.release(ref.end)
        elif body is not None and (ref := writer.put(body)) is not None:
            queue.append((ref, body))
        assert all(reader.copy(ref) == expected for ref, expected in queue)
    reader.close()
    writer.close()


def test_a_full_ring_says_so_until_room_is_handed_back(ring: tuple[RingWriter, RingReader]) -> None:
    writer, _ = ring
    ref = writer.put(bytes(80))
    assert ref is not None
    assert writer.put(bytes(30)) is None
    writer.release(ref.end)
    assert writer.put(bytes(30)) is not None


@pytest.mark.parametrize("end", [-1, 0, 81, 1 << 60])
def test_room_that_is_not_in_use_cannot_be_handed_back(ring: tuple[RingWriter, RingReader], end: int) -> None:
    writer, _ = ring
    writer.put(bytes(80))
    writer.release(end)
    assert writer.used == 80


@pytest.mark.parametrize(
    "ref", [Ref(0, 10, 1), Ref(1 << 40, 10, 1), Ref(4096, 101, 1), Ref(4096, 1 << 63, 1)]
)
def test_a_reference_outside_is_refused(ring: tuple[RingWriter, RingReader], ref: Ref) -> None:
    with pytest.raises(RemoteProtocolError, match="outside"):
        ring[1].copy(ref)


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
