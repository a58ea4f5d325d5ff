"""KV from device to device between two processes: through CUDA IPC where there is a GPU, and everywhere with
files that both map in its place. What a process leaves behind that is killed must not harm the other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from direct_far import GIVE, LAYOUT, SLOTS, TAKE, a_receiver, a_sender, answer, kv, reserve

from kv_transfer import Done, Dropped, Landed, Lost, Receiver, Sender
from kv_transfer.transports.base import Peer
from pagewire.engine.kv_cache import KVCache

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(params=["files", pytest.param("cuda", marks=needs_gpu)])
def where(request: pytest.FixtureRequest, tmp_path: Path, sockets: Path) -> str:
    return "cuda" if request.param == "cuda" else str(tmp_path)


@pytest.fixture
def far(where: str) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        folders = [
            str(Path(__file__).parents[2]),
            str(Path(__file__).parent),
            os.environ.get("PYTHONPATH", ""),
        ]
        env = os.environ | {"PYTHONPATH": ":".join(filter(None, folders))}
        command = [sys.executable, str(Path(__file__).with_name("direct_far.py")), where, *words]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def until(end: Sender | Receiver, wanted: Callable[[list[object]], object], limit: float = 60.0) -> None:
    events: list[object] = []
    stop = time.monotonic() + limit
    while not wanted(events):
        assert time.monotonic() < stop, f"nothing but {events}"
        for event in end.poll(time.monotonic()):
            events.append(event)
            answer(end, event)


def saw(kind: type) -> Callable[[list[object]], bool]:
    return lambda events: any(isinstance(event, kind) for event in events)


def whole(cache: KVCache) -> bool:
    """All tokens are in their slots, and nothing is anywhere else."""
    want = torch.zeros(LAYOUT.slab_shape(SLOTS), dtype=torch.bfloat16)
    want[:, :, torch.from_numpy(GIVE)] = kv()[:, :, torch.from_numpy(TAKE)]
    return torch.equal(cache.pages.cpu().view(want.shape), want)


def kill(child: subprocess.Popen[str]) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def only_from_devices(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a body went through the host's memory")

    monkeypatch.setattr(receiver._acts._store._in, "write", refuse)


def test_kv_comes_whole_from_another_process(where: str, far: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, cache = a_receiver(where, "shm://*")
    only_from_devices(receiver, monkeypatch)
    far("sender", receiver.address)
    until(receiver, saw(Landed))
    receiver.poll(time.monotonic())
    assert receiver.counts.frames > 16
    assert whole(cache)
    receiver.close()


def test_a_sender_that_is_killed_leaves_the_receiver_whole(
    where: str, far: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed while its memory is mapped and being read. The next one is served as ever."""
    receiver, cache = a_receiver(where, "shm://*")
    only_from_devices(receiver, monkeypatch)
    for _ in range(2):
        child = far("sender", receiver.address, "half")
        before = receiver.counts.frames
        until(receiver, lambda _, before=before: receiver.counts.frames >= before + 4)
        kill(child)
        until(receiver, saw(Dropped))
        until(receiver, lambda _: not receiver._transport._borrowed.peers)
    cache.pages.zero_()
    far("sender", receiver.address)
    until(receiver, saw(Landed))
    assert whole(cache)
    receiver.close()


def test_a_receiver_that_is_killed_leaves_the_sender_whole(where: str, far: Start) -> None:
    """It is killed in the middle; its blocks go to the next one, who maps the same memory."""
    sender = a_sender(where)
    for number in range(3):
        child = far("receiver", "shm://*")
        assert child.stdout is not None
        address = child.stdout.readline().strip()
        reserve(sender, address)
        frames = sender.counts.frames
        if number < 2:
            until(sender, lambda _, frames=frames: sender.counts.frames >= frames + 2)
            kill(child)
            until(sender, saw(Lost))
        else:
            until(sender, saw(Done))
            assert sender._transport._wires[b"shm"]._shared[Peer(address.encode())].lent.mapped
    assert sender._transport._wires[b"shm"]._lent._idle == []
    assert sender.counts.done == 1
    sender.close()
