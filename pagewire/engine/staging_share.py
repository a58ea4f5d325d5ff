"""Memory of a device that another process of this host can map: exported through CUDA IPC, or not at all.

An offer is a msgpack map of plain numbers and bytes. What torch needs to map the memory comes from the
storage's own ``_share_cuda_`` and goes to ``_new_shared_cuda``; torch's way around them, a pickle through
multiprocessing, is not used. The first bytes of the memory are a nonce, by which who maps it knows that it
has the right memory, and can read it. Knows memory and processes; knows no page and no slab.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

import msgpack
import torch

from pagewire.codec import build, unpack
from pagewire.errors import RemoteProtocolError

HEAD_BYTES = 4096  # before what is used; the nonce lies at their start
_NONCE_BYTES = 16
_EVENT_BYTES = 64
_REF_COUNTER = re.compile(rb"/torch_[0-9A-Za-z_]{1,200}")  # a file in /dev/shm
_REF_COUNTERS = 10_000  # in each


class Shared(NamedTuple):
    memory: torch.Tensor  # [size] uint8, without the head
    offer: bytes


class Share(Protocol):
    """Two processes have one each: what one lends the other may map."""

    def lend(self, size: int) -> Shared:
        """``size`` bytes behind a head. Raises RemoteProtocolError if there are none, or none to be lent."""
        ...

    def map(self, offer: bytes) -> torch.Tensor:
        """What was lent, with its head, [HEAD_BYTES + size] uint8; unmapped when the last view of it is gone.

        Raises RemoteProtocolError if that cannot be done here.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Offer:
    """``handle`` to ``wait`` are what torch gives for the storage, in its order."""

    uuid: str  # of the device
    nonce: bytes
    handle: bytes
    size: int
    offset: int
    counter: bytes
    counter_offset: int
    event: bytes
    wait: bool

    def check(self) -> None:
        """What torch would take at its word."""
        if not (
            len(self.nonce) == _NONCE_BYTES
            and len(self.event) == _EVENT_BYTES
            and 0 < len(self.handle) <= 4096
            and HEAD_BYTES < self.size <= 1 << 40
            and 0 <= self.offset <= 1 << 40
            and _REF_COUNTER.fullmatch(self.counter)
            and 0 <= self.counter_offset < _REF_COUNTERS
        ):
            raise RemoteProtocolError("not an offer of a device's memory")


class CudaShare:
    """Of one GPU. A stream of its own, so that nothing here waits for what is computed."""

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self._device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def lend(self, size: int) -> Shared:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        try:
            with torch.cuda.stream(self._stream):
                memory = torch.empty(HEAD_BYTES + size, dtype=torch.uint8, device=self._device)
                memory[:_NONCE_BYTES] = torch.frombuffer(bytearray(nonce), dtype=torch.uint8)
                parts = memory.untyped_storage()._share_cuda_()  # type: ignore[no-untyped-call]
                self._stream.synchronize()
        except RuntimeError as error:  # out of memory too
            raise RemoteProtocolError(f"the GPU's memory cannot be lent: {_first_line(error)}") from error
        _, handle, nbytes, offset, counter, counter_offset, event, wait = parts
        offer = _Offer(
            _uuid(self._device.index), nonce, bytes(handle), nbytes, offset, bytes(counter), counter_offset,
            bytes(event), bool(wait),
        )  # fmt: skip
        return Shared(memory[HEAD_BYTES:], msgpack.packb(asdict(offer)))

    def map(self, offer: bytes) -> torch.Tensor:
        there: _Offer = build(_Offer, unpack(offer))
        there.check()
        self._check_reach(there.uuid)
        try:
            with torch.cuda.stream(self._stream):
                # On our own device, whichever the memory is of: CUDA then opens the way between the two.
                storage = torch.UntypedStorage._new_shared_cuda(
                    self._device.index, there.handle, there.size, there.offset, there.counter,
                    there.counter_offset, there.event, there.wait,
                )  # fmt: skip
                memory = torch.empty(0, dtype=torch.uint8, device=self._device).set_(storage)
                seen = memory[:_NONCE_BYTES].cpu().numpy().tobytes()
        except RuntimeError as error:
            raise RemoteProtocolError(f"the GPU's memory cannot be mapped: {_first_line(error)}") from error
        if seen != there.nonce:
            raise RemoteProtocolError("the mapped memory is not what was offered")
        return memory

    def _check_reach(self, uuid: str) -> None:
        """A device that we can see must be within reach. For one that we cannot see, trying tells."""
        for index in range(torch.cuda.device_count()):
            if _uuid(index) != uuid or index == self._device.index:
                continue
            if not torch.cuda.can_device_access_peer(self._device.index, index):
                raise RemoteProtocolError("the two GPUs cannot reach each other's memory")


def _uuid(index: int) -> str:
    return str(torch.cuda.get_device_properties(index).uuid)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
