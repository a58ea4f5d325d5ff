"""Both ends of each wire that is measured: pagewire's transports, a whole handoff, bare sockets.

Each end is a function of (spec, memory, words): ``words`` is the line to the other process, over which the
address goes once. Both do what ``wire_work`` says with each frame, and return the seconds of CPU that the
frames which count cost them. Knows no table.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import zmq
from measure import Spent, cpu_time
from wire_work import GROUP, PAGE_SIZE, Memory, Spec, Work

from kv_transfer import Done, Granted, Landed, Limits, Receiver, Reserved, Sender, open_receiver, open_sender
from kv_transfer.transports.base import Dialer, Listener, Peer
from kv_transfer.transports.choose import ByScheme
from kv_transfer.transports.nixl_dialer import NixlDialer
from pagewire.engine.staging import handoff_pages

WINDOW = Limits().credit_bytes  # bytes under way, as for one transfer of the handoff
SECRET = b"s" * 32
PROMPT = 2048  # tokens of a transfer of the whole handoff

LISTEN = {"shm": "shm://*", "nixl": "nixl://127.0.0.1:*"}

Say = Callable[[str], None]
Hear = Callable[[], str]


def listen_at(name: str) -> tuple[str, bytes | None]:
    """The address to listen at, and the secret if the wire is encrypted."""
    scheme, _, curve = name.partition("+")
    return LISTEN.get(scheme, "tcp://127.0.0.1:*"), (SECRET if curve else None)


# --- the transports alone -----------------------------------------------------------------------------------


def near_transport(spec: Spec, memory: Memory, hear: Hear) -> Spent:
    dialer, peer = open_sender(listen_at(spec.wire)[1]), Peer(hear().encode())
    work = Work(spec, memory)
    assert dialer.send(peer, b"hello", b"")
    _await(dialer.sockets, lambda: [a for a in dialer.receive() if a.head == b"hello"])
    _until_lent(dialer, peer)
    _pump(dialer, peer, work, spec, range(spec.warm))
    wall, cpu = time.perf_counter(), cpu_time()
    _pump(dialer, peer, work, spec, range(spec.warm, spec.warm + spec.frames))
    wall, cpu = time.perf_counter() - wall, cpu_time() - cpu
    dialer.close()
    return Spent(spec.frames * spec.body_bytes, wall, cpu, 0.0)


def _until_lent(dialer: Dialer, peer: Peer) -> None:
    """A link by NIXL begins with bodies through the socket, which is not what is to be measured."""
    if not peer.startswith(b"nixl"):
        return
    assert isinstance(dialer, ByScheme)
    wire = dialer._wires[b"nixl"]
    assert isinstance(wire, NixlDialer)
    if peer not in wire._links:
        assert wire.send(peer, b"no frame", b"")
    end = time.monotonic() + 60
    while not wire._links[peer].read:
        assert time.monotonic() < end, "nothing is lent"
        assert not wire._links[peer].unread, "nothing can be lent"
        _wait(dialer.sockets, 0.05)
        wire.receive()


def _pump(dialer: Dialer, peer: Peer, work: Work, spec: Spec, frames: range) -> None:
    sent, taken, most = frames.start, frames.start, max(2, WINDOW // spec.body_bytes)
    while taken < frames.stop:
        if sent < frames.stop and sent - taken < most:
            room = dialer.room(peer, spec.body_bytes)
            if room is not None:
                work.fill(sent, room)
                assert dialer.send(peer, work.head(sent, room), room), "the wire takes no more"
                sent += 1
                continue
        for arrived in _await(dialer.sockets, lambda: list(dialer.receive())):
            taken = int.from_bytes(arrived.head, "little")


def far_transport(spec: Spec, memory: Memory, say: Say) -> float:
    address, secret = listen_at(spec.wire)
    listener, work = open_receiver(address, secret), Work(spec, memory)
    say(listener.address)
    taken, cpu = 0, 0.0
    while taken < spec.warm + spec.frames:
        peer, taken = _take(listener, work, taken)
        if peer is None:
            _wait(listener.sockets)
            continue
        listener.send(peer, taken.to_bytes(8, "little") if taken else b"hello", b"")
        cpu = cpu_time() if taken == spec.warm else cpu
    cpu = cpu_time() - cpu
    time.sleep(0.05)  # the last word is on its way
    listener.close()
    return cpu


def _take(listener: Listener, work: Work, taken: int) -> tuple[Peer | None, int]:
    peer = None
    for arrived in listener.receive():
        peer = arrived.peer
        if arrived.head != b"hello":
            work.take(taken, arrived.head, arrived.body)
            taken += 1
    return peer, taken


# --- the whole handoff --------------------------------------------------------------------------------------


def near_handoff(spec: Spec, memory: Memory, hear: Hear) -> Spent:
    """Prompts of PROMPT tokens, one after the other, each from reserve to adopted."""
    pages = handoff_pages(memory.cache(spec.layout))
    dialer, address, prompts = open_sender(listen_at(spec.wire)[1]), hear(), _prompts(spec)
    sender = Sender(dialer, pages, spec.kv, "near", groups=-(-spec.kv.layers // GROUP))
    _until_lent(dialer, Peer(address.encode()))
    slots = _slots(memory, spec)
    _hand_over(sender, address, slots)
    wall, cpu = time.perf_counter(), cpu_time()
    for _ in range(prompts):
        _hand_over(sender, address, slots)
    wall, cpu = time.perf_counter() - wall, cpu_time() - cpu
    sender.close()
    return Spent(prompts * PROMPT * spec.kv.token_bytes, wall, cpu, 0.0)


def _hand_over(sender: Sender, address: str, slots: np.ndarray) -> None:
    sender.reserve(address, PROMPT, b"who", 60.0, time.monotonic())
    while True:
        now = time.monotonic()
        for event in sender.poll(now):
            if isinstance(event, Granted):
                sender.publish(event.transfer, slots, PROMPT)
                sender.commit(event.transfer, b"first", now)
            else:
                assert isinstance(event, Done), event
                return
        _wait(sender.sockets, sender.due_in(time.monotonic()))


def far_handoff(spec: Spec, memory: Memory, say: Say) -> float:
    address, secret = listen_at(spec.wire)
    limits = Limits(max_open=8, frame_bytes=spec.frame_bytes)
    pages = handoff_pages(memory.cache(spec.layout))
    receiver = Receiver(open_receiver(address, secret), pages, spec.kv, "far", limits)
    say(receiver.address)
    slots, left, cpu = _slots(memory, spec), 1 + _prompts(spec), 0.0
    while left:
        for event in receiver.poll(time.monotonic()):
            match event:
                case Reserved(transfer):
                    receiver.grant(transfer, 0, slots)
                case Landed(transfer):
                    receiver.adopt(transfer)
                    left -= 1
                    cpu = cpu_time() if left == _prompts(spec) else cpu
                case _:
                    raise AssertionError(event)
        _wait(receiver.sockets, receiver.due_in(time.monotonic()))
    cpu = cpu_time() - cpu
    time.sleep(0.05)
    receiver.close()
    return cpu


def _prompts(spec: Spec) -> int:
    return max(1, spec.total_bytes // (PROMPT * spec.kv.token_bytes))


def _slots(memory: Memory, spec: Spec) -> np.ndarray:
    pages = memory.order(memory.cache(spec.layout).num_pages)[: PROMPT // PAGE_SIZE]
    return (pages[:, None] * PAGE_SIZE + np.arange(PAGE_SIZE)).reshape(-1)


# --- bare sockets -------------------------------------------------------------------------------------------


def near_socket(spec: Spec, memory: Memory, hear: Hear) -> Spent:
    """``sendall`` of cold bytes: the kernel copies them."""
    address, work = hear(), Work(spec, memory)
    line = socket.socket(socket.AF_UNIX if address.startswith("/") else socket.AF_INET)
    with line:
        line.connect(address if address.startswith("/") else ("127.0.0.1", int(address)))
        for i in range(spec.warm):
            line.sendall(work.source(i))
        assert line.recv(1)
        wall, cpu = time.perf_counter(), time.process_time()
        for i in range(spec.warm, spec.warm + spec.frames):
            line.sendall(work.source(i))
        assert line.recv(1)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Spent(spec.frames * spec.body_bytes, wall, cpu, 0.0)


def far_socket(spec: Spec, memory: Memory, say: Say) -> float:
    """``recv_into`` the same private memory again and again, as the transports do."""
    body = np.empty(spec.body_bytes, np.uint8).data
    with _bound(spec.wire) as server:
        say(str(server.getsockname()[1]) if server.family == socket.AF_INET else server.getsockname())
        line, _ = server.accept()
    with line:
        _fill(line, body, spec.warm)
        line.sendall(b"w")
        cpu = time.process_time()
        _fill(line, body, spec.frames)
        cpu = time.process_time() - cpu
        line.sendall(b"d")
    return cpu


def _fill(line: socket.socket, body: memoryview, frames: int) -> None:
    for _ in range(frames):
        at = 0
        while at < len(body):
            count = line.recv_into(body[at:])
            assert count, "the other end hung up"
            at += count


@contextmanager
def _bound(name: str) -> Iterator[socket.socket]:
    if name == "raw tcp":
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.join(folder, "raw.sock"))
        server.listen(1)
        yield server


# --- waiting ------------------------------------------------------------------------------------------------


def _wait(sockets: Callable[[], list[zmq.Socket[bytes]]], seconds: float = 5.0) -> None:
    poller = zmq.Poller()
    for one in sockets():
        poller.register(one, zmq.POLLIN)
    poller.poll(seconds * 1000)


def _await(sockets: Callable[[], list[zmq.Socket[bytes]]], look: Callable[[], list]) -> list:
    end = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < end, "the other end says nothing"
        _wait(sockets)
    return found


def ends(spec: Spec) -> tuple[Callable, Callable]:
    if spec.wire.startswith("raw"):
        return near_socket, far_socket
    if spec.wire == "bare nixl":
        from nixl_read import far_nixl, near_nixl

        return near_nixl, far_nixl
    return (near_handoff, far_handoff) if spec.stage == "handoff" else (near_transport, far_transport)
