"""A GPU that is not there: tensors on it have shapes and no numbers, kernels are compiled for it and not run.

``ghost()`` joins ``offline_gpu``'s driver with torch's FakeTensorMode and puts stand-ins for streams, events
and graphs in place of ``torch.cuda``'s. The program under test then takes every turn that it takes on a GPU,
with the shapes of a real model: what would make the host wait (``item``, ``tolist``, ``if tensor``) has no
answer and raises, and while a graph is captured so does every copy between host and device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import offline_gpu
import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda:0")
PROPERTIES = SimpleNamespace(name="a ghost", multi_processor_count=132, total_memory=80 << 30)


class Ghost:
    def __init__(self) -> None:
        self.driver = offline_gpu.become()
        self.capturing = False
        self.captured = 0  # graphs
        self.replays = 0
        self.waits = 0  # times that the host waited to read the device's memory

    def read(self, tensor: torch.Tensor) -> list[Any]:
        """``tolist``: zeros."""
        assert not self.capturing, "the host reads while a graph is captured"
        self.waits += tensor.is_cuda
        return _zeros(tensor.cpu()).tolist()  # type: ignore[no-any-return]

    def kernels(self) -> list[str]:
        """Names of what was compiled so far."""
        return [name for name, _, _ in self.driver.utils.loaded]


class _Graph:
    def __init__(self, ghost: Ghost) -> None:
        self._ghost = ghost

    def replay(self) -> None:
        self._ghost.replays += 1


class _Event:
    def record(self, *_: object) -> None: ...
    def wait(self, *_: object) -> None: ...
    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class _Stream:
    def record_event(self, *_: object) -> _Event:
        return _Event()

    def wait_stream(self, _: object) -> None: ...
    def wait_event(self, _: object) -> None: ...
    def synchronize(self) -> None: ...


class _NoHostInGraphs(TorchDispatchMode):
    """Raises where a graph that is being captured would touch the host."""

    def __init__(self, ghost: Ghost) -> None:
        super().__init__()
        self._ghost = ghost

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._ghost.capturing:
            leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
            seen = {x.device.type for x in leaves if isinstance(x, torch.Tensor) and x.dim()}
            if seen == {"cpu", "cuda"}:
                raise AssertionError(f"{func} copies between host and device while a graph is captured")
        return out


@contextmanager
def ghost() -> Iterator[Ghost]:
    made = Ghost()

    @contextmanager
    def capture(graph: _Graph, **_: object) -> Iterator[None]:
        assert not made.capturing
        made.capturing = True
        try:
            yield
        finally:
            made.capturing = False
        made.captured += 1

    cuda: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "mem_get_info": lambda *_: (70 << 30, 80 << 30),
        "memory_allocated": lambda *_: 1 << 30,
        "max_memory_allocated": lambda *_: 2 << 30,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda *_: PROPERTIES.name,
        "get_device_properties": lambda *_: PROPERTIES,
        "get_device_capability": lambda *_: (9, 0),
        "synchronize": lambda *_: _outside(made),
        "current_stream": lambda *_: _Stream(),
        "stream": lambda *_: nullcontext(),
        "Stream": lambda *_, **__: _Stream(),
        "Event": lambda *_, **__: _Event(),
        "graph_pool_handle": lambda: (0, 0),
        "CUDAGraph": lambda *_, **__: _Graph(made),
        "graph": capture,
    }
    fake: dict[str, Any] = {
        "data_ptr": lambda self: 0,
        "numpy": _zeros,
        "tolist": lambda self: made.read(self),
        "copy_": lambda self, other, non_blocking=False: torch.ops.aten.copy_(self, other, non_blocking),
        "__getitem__": _item,
    }
    with ExitStack() as stack:
        for name, stand_in in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        for name, stand_in in fake.items():
            stack.enter_context(mock.patch.object(FakeTensor, name, stand_in, create=True))
        for name in ("empty", "zeros", "tensor"):
            stack.enter_context(mock.patch.object(torch, name, _unpinned(getattr(torch, name))))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda self, *_: self))
        # Else what is made of literals is computed with, and copied to the device, for real.
        stack.enter_context(mock.patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", -1))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_NoHostInGraphs(made))
        yield made


def _unpinned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Nothing is pinned: there is no driver to pin it."""
    return lambda *a, pin_memory=False, **k: make(*a, **k)


def _zeros(self: torch.Tensor) -> np.ndarray[Any, Any]:
    """What the host sees of a tensor that is on the host."""
    assert self.device.type == "cpu", "the host looks into the device's memory"
    return np.zeros(self.shape, str(self.dtype).removeprefix("torch."))


def _outside(made: Ghost) -> None:
    assert not made.capturing, "the host waits while a graph is captured"


def _item(self: torch.Tensor, index: Any) -> torch.Tensor:
    """``self[index]`` without the device guard of torch's own, which wants the driver."""
    items = index if isinstance(index, tuple) else (index,)
    dots = [at for at, item in enumerate(items) if item is Ellipsis]
    if dots:
        real = sum(item is not None and item is not Ellipsis for item in items)
        items = (*items[: dots[0]], *[slice(None)] * (self.dim() - real), *items[dots[0] + 1 :])
    out, dim = self, 0
    for item in items:
        if item is None:
            out, dim = out.unsqueeze(dim), dim + 1
        elif isinstance(item, int):
            out = out.select(dim, item)
        elif isinstance(item, slice):
            out = torch.ops.aten.slice.Tensor(out, dim, item.start, item.stop, item.step or 1)
            dim += 1
        else:
            if isinstance(item, list):
                item = torch.zeros(len(item), dtype=torch.int64, device=self.device)
            out, dim = torch.ops.aten.index.Tensor(out, [None] * dim + [item]), dim + 1
    return out
