"""What is offered of a GPU's memory, and what is taken from an offer. torch's part is stood in for."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import torch

from pagewire.engine import staging_share
from pagewire.engine.staging_share import HEAD_BYTES, CudaShare
from pagewire.errors import RemoteProtocolError

HANDLE, EVENT, COUNTER = b"c" + bytes(64), bytes(64), b"/torch_12_345_0"


class Stream:
    def synchronize(self) -> None:
        pass


class Torch:
    """What a storage gave and who asked for it. ``fails`` as CUDA does."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.given: dict[bytes, torch.UntypedStorage] = {}
        self.fails = ""
        patch.setattr(
            torch.UntypedStorage, "_share_cuda_", lambda storage: self.share(storage), raising=False
        )
        patch.setattr(
            torch.UntypedStorage,
            "_new_shared_cuda",
            staticmethod(lambda *parts: self.map(*parts)),
            raising=False,
        )
        patch.setattr(staging_share, "_uuid", lambda index: "gpu-0")

    def share(self, storage: torch.UntypedStorage) -> tuple[object, ...]:
        if self.fails == "lend":
            raise RuntimeError("CUDA error: not supported\nmore of it")
        self.given[HANDLE] = storage
        return 0, HANDLE, len(storage), 512, COUNTER, 3, EVENT, True

    def map(
        self, device: object, handle: bytes, size: int, offset: int, *rest: object
    ) -> torch.UntypedStorage:
        if self.fails == "map":
            raise RuntimeError("CUDA error: invalid device context\nmore of it")
        assert (size, offset) == (len(self.given[handle]), 512)
        assert rest == (COUNTER, 3, EVENT, True)
        return self.given[handle]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Torch:
    return Torch(monkeypatch)


def a_share() -> CudaShare:
    share: Any = object.__new__(CudaShare)
    share._device, share._stream = torch.device("cpu"), Stream()
    return share


def offered(cuda: Torch, **other: object) -> bytes:
    """A good offer, with ``other`` fields."""
    return msgpack.packb(msgpack.unpackb(a_share().lend(1000).offer) | other)


def test_what_is_lent_is_mapped_with_its_head(cuda: Torch) -> None:
    lent = a_share().lend(1000)
    lent.memory[:] = 7
    mapped = a_share().map(lent.offer)
    assert len(mapped) == HEAD_BYTES + 1000
    assert torch.equal(mapped[HEAD_BYTES:], lent.memory)


@pytest.mark.parametrize(
    "other",
    [
        {"nonce": b"short"},
        {"event": bytes(63)},
        {"handle": b""},
        {"handle": bytes(5000)},
        {"size": HEAD_BYTES},
        {"size": 1 << 50},
        {"offset": -1},
        {"counter": b"/etc/passwd"},
        {"counter": b"/torch_../x"},
        {"counter_offset": 10_000},
        {"counter_offset": -1},
        {"wait": 1},
        {"more": 1},
        {"uuid": b"bytes"},
    ],
)
def test_an_offer_that_torch_should_not_see_is_refused(cuda: Torch, other: dict[str, object]) -> None:
    offer = offered(cuda, **other)
    cuda.given.clear()  # it would be a KeyError
    with pytest.raises(RemoteProtocolError):
        a_share().map(offer)


@pytest.mark.parametrize("offer", [b"", b"what", msgpack.packb([1, 2])])
def test_what_is_no_offer_is_refused(cuda: Torch, offer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        a_share().map(offer)


def test_other_memory_than_was_offered_is_refused(cuda: Torch) -> None:
    lent = a_share().lend(1000)
    cuda.given[HANDLE] = torch.zeros(HEAD_BYTES + 1000, dtype=torch.uint8).untyped_storage()
    with pytest.raises(RemoteProtocolError, match="not what was offered"):
        a_share().map(lent.offer)


def test_what_cuda_refuses_is_told_in_a_line(cuda: Torch) -> None:
    lent = a_share().lend(1000)
    cuda.fails = "map"
    with pytest.raises(RemoteProtocolError, match=r"cannot be mapped: CUDA error: invalid device context$"):
        a_share().map(lent.offer)
    cuda.fails = "lend"
    with pytest.raises(RemoteProtocolError, match=r"cannot be lent: CUDA error: not supported$"):
        a_share().lend(1000)


def test_a_gpu_in_sight_that_cannot_be_reached_is_refused(
    cuda: Torch, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent, share = a_share().lend(1000), a_share()
    share._device = torch.device("cuda", 1)
    monkeypatch.setattr(staging_share, "_uuid", lambda index: f"gpu-{index}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda own, other: (own, other) != (1, 0))
    with pytest.raises(RemoteProtocolError, match="reach"):
        share.map(lent.offer)
