"""NIXL as a wire, where it is installed: the receiver READs what the sender has staged.

The sender copies a frame into a slot of a staging slab that it registered once, and says so over a socket;
the receiver reads it into private memory, and says that the slot is free. So the receiver owns every write,
as with pagewire's own transports. UCX chooses how bytes go; UCX_TLS in the environment restricts it.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

import numpy as np
from measure import Spent
from nixl._api import nixl_agent, nixl_agent_config
from wire_work import Memory, Spec, Work

WINDOW = 8 << 20
_WORD = struct.Struct("<Q")


def _agent(name: str) -> nixl_agent:
    return nixl_agent(name, nixl_agent_config(backends=["UCX"]))


def _slots(spec: Spec) -> int:
    return max(2, WINDOW // spec.body_bytes)


def near_nixl(spec: Spec, memory: Memory, hear: Callable[[], str]) -> Spent:
    work, slots, size = Work(spec, memory), _slots(spec), spec.body_bytes
    with socket.create_connection(("127.0.0.1", int(hear()))) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        agent, slab = _agent("near"), np.zeros(slots * size, np.uint8)
        registered = agent.register_memory([(slab.ctypes.data, slab.nbytes, 0, "")], "DRAM")
        card = agent.get_agent_metadata()
        line.sendall(_WORD.pack(len(card)) + card + _WORD.pack(slab.ctypes.data))

        def move(frames: range) -> None:
            for i in frames:
                if i - frames.start >= slots:
                    _word(line)
                at = i % slots * size
                work.fill(i, slab[at : at + size].data)
                line.sendall(_WORD.pack(i))
            for _ in range(min(slots, len(frames))):
                _word(line)

        move(range(spec.warm))
        wall, cpu = time.perf_counter(), time.process_time()
        move(range(spec.warm, spec.warm + spec.frames))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        agent.deregister_memory(registered)
    return Spent(spec.frames * size, wall, cpu, 0.0)


def far_nixl(spec: Spec, memory: Memory, say: Callable[[str], None]) -> float:
    work, slots, size = Work(spec, memory), _slots(spec), spec.body_bytes
    with socket.create_server(("127.0.0.1", 0)) as server:
        say(str(server.getsockname()[1]))
        line, _ = server.accept()
    with line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        agent, body, cpu = _agent("far"), np.zeros(size, np.uint8), 0.0
        registered = agent.register_memory([(body.ctypes.data, size, 0, "")], "DRAM")
        peer = agent.add_remote_agent(_exactly(line, _word(line)))
        base = _word(line)
        here = agent.prep_xfer_dlist("", [(body.ctypes.data, size, 0)], "DRAM")
        there = agent.prep_xfer_dlist(peer, [(base + k * size, size, 0) for k in range(slots)], "DRAM")
        reads = [agent.make_prepped_xfer("READ", here, [0], there, [k]) for k in range(slots)]
        for taken in range(spec.warm + spec.frames):
            if taken == spec.warm:
                cpu = time.process_time()
            i = _word(line)
            _read(agent, reads[i % slots])
            work.take(i, i.to_bytes(8, "little"), body.data)
            line.sendall(_WORD.pack(i))
        cpu = time.process_time() - cpu
        for read in reads:
            agent.release_xfer_handle(read)
        agent.deregister_memory(registered)
        agent.remove_remote_agent(peer)
    return cpu


def _read(agent: nixl_agent, read: object) -> None:
    state = agent.transfer(read)
    while state == "PROC":
        state = agent.check_xfer_state(read)
    assert state == "DONE", state


def _word(line: socket.socket) -> int:
    return int(_WORD.unpack(_exactly(line, _WORD.size))[0])


def _exactly(line: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = line.recv(size - len(data))
        assert part, "the other end hung up"
        data += part
    return bytes(data)
