"""The queues of a device that the handoff uses, and fences between them.

What is given to a queue runs later, in the order in which it was given; the queues run beside each other and
beside the host. Nothing else is ordered but by a fence: ``set`` puts it behind all that a queue has, and
``hold`` and ``wait`` make another queue and the host wait for that place. ``staging_out`` and
``staging_in`` are written against this alone, so a test can put in its place a device that runs what it was
given as late, as early and as disorderly as the fences let it. Knows streams and memory; knows no page and
no slab.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

import torch


class Queue(Enum):
    COMPUTE = auto()  # what the model computes
    MOVES = auto()  # kernels that read pages beside it
    COPIES = auto()  # copies between host and device


class Fence(Protocol):
    """A place in a queue. One that was never set has been passed; one that is set again is the new place,
    also for who waits from now on, but not for who waits already.
    """

    def set(self, queue: Queue) -> None:
        """It lies behind all that ``queue`` was given so far."""
        ...

    def hold(self, queue: Queue) -> None:
        """What ``queue`` is given from now on begins when the fence has been passed."""
        ...

    def passed(self) -> bool: ...

    def wait(self) -> None:
        """The host goes on when it has been passed."""
        ...


class Lane(Protocol):
    """Operations run in inference mode: the views they write through may be made in a step or between two."""

    def run(self, queue: Queue, operation: Callable[[], object]) -> None:
        """Give ``operation`` to ``queue``: the device does it, and the host waits for nothing."""
        ...

    def fence(self, name: str) -> Fence:
        """``name`` is for people and tests."""
        ...

    def host(self, size: int) -> torch.Tensor:
        """``size`` bytes of host memory that the device copies to and from by itself."""
        ...

    def device(self, size: int) -> torch.Tensor:
        """``size`` bytes of the device's memory."""
        ...


class CudaLane:
    """COMPUTE is the stream that is current when something is given to it, the others are our own.

    MOVES come first wherever there is room: they are short, and would else stand behind all blocks of a
    product that was begun before.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = {
            Queue.MOVES: torch.cuda.Stream(device, priority=-1),  # type: ignore[no-untyped-call]
            Queue.COPIES: torch.cuda.Stream(device),  # type: ignore[no-untyped-call]
        }

    def run(self, queue: Queue, operation: Callable[[], object]) -> None:
        with torch.inference_mode(), torch.cuda.stream(self._own.get(queue)):
            operation()

    def stream(self, queue: Queue) -> torch.cuda.Stream:
        own = self._own.get(queue)
        return torch.cuda.current_stream(self._device) if own is None else own

    def fence(self, name: str) -> CudaFence:
        return CudaFence(self)

    def host(self, size: int) -> torch.Tensor:
        """From torch's allocator, which rounds up to a power of two: give it one, and nothing is wasted.

        Registering memory of our own (cudaHostRegister) would allow any size, and leave us to unregister it
        before it is unmapped, in whatever state the process ends.
        """
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def device(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._device)


class CudaFence:
    """An event, made once and set again and again."""

    def __init__(self, lane: CudaLane) -> None:
        self._lane = lane
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def set(self, queue: Queue) -> None:
        self._event.record(self._lane.stream(queue))

    def hold(self, queue: Queue) -> None:
        self._event.wait(self._lane.stream(queue))

    def passed(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        self._event.synchronize()


class PlainLane:
    """Without a device that works beside the host: what is given is done at once."""

    def run(self, queue: Queue, operation: Callable[[], object]) -> None:
        with torch.inference_mode():
            operation()

    def fence(self, name: str) -> PlainFence:
        return PlainFence()

    def host(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    device = host


class PlainFence:
    def set(self, queue: Queue) -> None:
        pass

    def hold(self, queue: Queue) -> None:
        pass

    def passed(self) -> bool:
        return True

    def wait(self) -> None:
        pass
