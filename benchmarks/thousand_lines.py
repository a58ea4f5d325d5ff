"""What many connections cost: nodes' lines to a router, links to decode nodes, and a directory in redis.

Real sockets and a real redis on this host; the nodes are bare sockets of another process that prove
themselves and send heartbeats. Knows no load.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import redis
import zmq
from thousand_costs import Yard

from pagewire.guard import NEWCOMER_BYTES, NEWCOMERS, Newcomers
from pagewire.mailbox import TO_ROUTER, Peer, RouterMailbox
from pagewire.mailbox.sockets import bounded
from pagewire.membership.outage import Outage
from pagewire.membership.record import KINDS, Record, key_of, sign
from pagewire.membership.redis_registry import REFRESH_S
from pagewire.membership.store import Store
from pagewire.messages import DECODE, PREFILL, ROUTER, Beat, Epoch, Load, NodeId
from pagewire.open_files import allow_files
from pagewire.secret import apply_client

SECRET = b"s" * 32


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def files() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- nodes' lines to one router -----------------------------------------------------------------------------


async def router_lines(nodes: int, strangers: int = NEWCOMERS, patience_s: float = 40.0) -> dict[str, object]:
    """What a router has of ``nodes`` nodes that dial it at once, and of each message that it reads or sends.
    ``strangers`` may be in the door at a time."""
    allow_files()
    Newcomers.__init__.__defaults__ = strangers, NEWCOMER_BYTES
    mailbox = RouterMailbox("tcp://127.0.0.1:*", SECRET)
    before, had = rss_mb(), files()
    command = [sys.executable, __file__, mailbox.address, str(nodes)]
    known: set[Peer] = set()
    row: dict[str, object] = {"nodes": nodes, "in the door": strangers}
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        began, cpu = time.monotonic(), time.process_time()
        while len(known) < nodes and (left := began + patience_s - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                known.add((await asyncio.wait_for(mailbox.receive(), left))[0])
        took, spent = time.monotonic() - began, time.process_time() - cpu
        row |= {"heard": len(known), "after s": took, "CPU s": spent, "hung up on": mailbox.refusals.crowded}
        row |= {"files": files() - had, "MB": rss_mb() - before}
        if len(known) == nodes:
            row |= await _messages(mailbox, list(known))
        child.kill()
    mailbox.close()
    return row


async def _messages(mailbox: RouterMailbox, peers: list[Peer]) -> dict[str, object]:
    ours = Beat(NodeId("r"), Epoch("e"), Load(running=5))
    at = time.thread_time()
    sent = sum(mailbox.send(peer, ours) for peer in peers)
    sending = time.thread_time() - at
    count, spent = 2 * len(peers), 0.0
    for _ in range(count):
        at = time.thread_time()
        await asyncio.wait_for(mailbox.receive(), 60)
        spent += time.thread_time() - at
    return {"us to read a heartbeat": spent / count * 1e6, "us to send one": sending / sent * 1e6}


def nodes_of(address: str, nodes: int) -> None:
    """In the other process: they dial at once, say that they live, and do so once more each half second."""
    allow_files()
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4 * nodes + 64)
    sockets = []
    message = Yard(8).beats[0]
    for number in range(nodes):
        socket = context.socket(zmq.DEALER)
        bounded(socket)
        node = f"prefill-{number}"
        socket.setsockopt(zmq.IDENTITY, f"{node}/e".encode())
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        apply_client(socket, SECRET, PREFILL, ROUTER)
        socket.connect(address)
        sockets.append((socket, TO_ROUTER.encode(Beat(NodeId(node), Epoch("e"), message.load, PREFILL))))
    print("dialled", flush=True)
    waiting = dict(enumerate(sockets))
    while waiting:
        for number, (socket, data) in list(waiting.items()):
            try:
                socket.send(data, zmq.NOBLOCK)
                del waiting[number]
            except zmq.Again:
                pass
        time.sleep(0.01)
    while True:
        time.sleep(0.5)
        for socket, data in sockets:
            with contextlib.suppress(zmq.Again):
                socket.send(data, zmq.NOBLOCK)


def dialled(count: int) -> dict[str, object]:
    """A prefill node's way to ``count`` decode nodes: files and MB of as many links."""
    from kv_transfer.transports.base import Peer as Receiver
    from kv_transfer.transports.tcp import TcpDialer

    allow_files()
    had, before, dialer = files(), rss_mb(), TcpDialer()
    for number in range(count):
        dialer.send(Receiver(f"tcp://127.0.0.1:{20000 + number}".encode()), b"head", b"")
    found = {"files": files() - had, "MB": rss_mb() - before}
    dialer.close()
    return dict(found)


# --- the directory ------------------------------------------------------------------------------------------


def directory(url: str, nodes: int, routers: int) -> dict[str, float]:
    """What ``nodes`` and ``routers`` ask of redis in one refresh, and what it costs it."""
    client = redis.Redis.from_url(url, protocol=2)
    client.flushall()
    empty = client.info("memory")["used_memory"]
    store, key = Store(client, "default"), key_of(SECRET)

    def refresh(kind: str, name: str, address: str, watch: tuple[str, ...]) -> None:
        record = Record(
            cluster="default", kind=kind, name=name, epoch="0123456789abcdef", generation=1, address=address,
            version="0.1.0+4a97d5a4", model="Qwen2.5-7B-Instruct",
        )  # fmt: skip
        client.ping()
        store.get(kind, name)
        store.put(kind, name, sign(record, key), tell=False)
        for each in watch:
            store.list(each)

    def all_nodes() -> None:
        for number in range(nodes):
            kind = DECODE if number % 8 == 7 else PREFILL
            address = f"tcp://10.0.0.{number}:7600" if kind == DECODE else ""
            refresh(kind, f"{kind}-{number}", address, (ROUTER,))

    def all_routers() -> None:
        for number in range(routers):
            refresh(ROUTER, f"router-{number}", f"tcp://10.0.1.{number}:7500", KINDS)

    all_routers(), all_nodes()
    kept = client.info("memory")["used_memory"] - empty
    of_nodes, of_routers = (_cpu_of(client, act) for act in (all_nodes, all_routers))
    return {
        "nodes": nodes, "routers": routers, "us a node": of_nodes[0] / nodes * 1e6,
        "ms a router": of_routers[0] / routers * 1e3,
        "core": (of_nodes[0] + of_routers[0]) / REFRESH_S,
        "commands/s": (of_nodes[1] + of_routers[1]) / REFRESH_S, "KB kept": kept / 1e3,
    }  # fmt: skip


def _cpu_of(client: redis.Redis, act: object) -> tuple[float, int]:
    def used() -> tuple[float, int]:
        cpu, stats = client.info("cpu"), client.info("stats")
        return cpu["used_cpu_user"] + cpu["used_cpu_sys"], stats["total_commands_processed"]

    found = []
    for _ in range(3):
        before = used()
        act()  # type: ignore[operator]
        after = used()
        found.append((after[0] - before[0], after[1] - before[1]))
    return min(found)


def return_of_redis(processes: int, outage_s: float = 60.0) -> dict[str, float]:
    """When as many processes, each with the waits that it really makes, try after an outage, and how many at
    once. Each try is two connections."""
    dice, tries, back = random.Random(3), Counter[int](), []
    for _ in range(processes):
        state, now = Outage("redis"), dice.random() * 0.01
        while now < outage_s:
            state.fell(now, "away")
            tries[int(now)] += 1
            now += state.wait_s(dice.random())
        back.append(now - outage_s)
    at = Counter(int(when * 100) for when in back)
    return {
        "processes": processes, "tries in the first second": tries[0],
        "tries a second, later": tries[int(outage_s) - 10], "most in 10 ms": max(at.values()),
        "half are back after s": sorted(back)[len(back) // 2], "all after s": max(back),
    }  # fmt: skip


if __name__ == "__main__":
    nodes_of(sys.argv[1], int(sys.argv[2]))
