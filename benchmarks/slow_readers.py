"""Clients that ask for streams and read them at 1 KB/s, or not at all, beside clients that read: what that
does to the router's memory and to the others.

    pagewire serve MODEL --max-num-seqs 300
    python -m benchmarks.slow_readers http://127.0.0.1:8000 --router-pid PID

First the good streams run alone, then beside as many streams as there will be slow ones but read at full
speed, then beside the slow ones, so that what the nodes have to compute is told apart from what slow reading
does. A request that finds no place (429) is asked again. Knows sockets and events; knows no token.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

GOOD = 6
CUT_S = 30.0
MEMORY_MB = 300
RATIO = 1.2


@dataclass
class Run:
    """``first_s`` and ``last_s`` are when the first slow client had an answer to read, and when the router
    held the last connection of one: what the kernel still has to send is no longer its own."""

    gaps_ms: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    most: int = 0  # slow connections at once
    cut: int = 0  # that the client saw
    left: int = 0  # that the router held at the end

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self.gaps_ms)
        return ordered[int(len(ordered) * 0.99)] if ordered else float("nan")


def request(tokens: int, *, large: bool) -> bytes:
    body = {"prompt": [5] * 8, "max_tokens": tokens, "stream": True, "ignore_eos": True, "temperature": 0}
    data = json.dumps(body | ({"logprobs": 20} if large else {})).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    )
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


@dataclass(frozen=True)
class Found:
    line: str
    held: bool


class Crowd:
    """Clients of one router. ``seconds`` is how long each run takes."""

    def __init__(self, url: str, pid: int, seconds: float, tokens: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._process, self._seconds, self._tokens = psutil.Process(pid), seconds, tokens

    async def run(self, *, slow: int = 0, fast: int = 0) -> Run:
        """Good streams for some seconds, beside ``fast`` that read all and twice ``slow`` that do not."""
        found = Run()
        async with asyncio.TaskGroup() as tasks:
            end = time.monotonic() + self._seconds
            for _ in range(GOOD):
                tasks.create_task(self._good(found, end))
            await asyncio.sleep(1.0)
            for _ in range(fast):
                tasks.create_task(self._fast(end))
            for number in range(2 * slow):
                tasks.create_task(self._slow(found, end, reads=number % 2 == 0))
            tasks.create_task(self._weigh(found, end))
        return found

    async def _weigh(self, found: Run, end: float) -> None:
        while (now := time.monotonic()) < end - 0.5:
            found.peak_mb = max(found.peak_mb, self._process.memory_info().rss / 1e6)
            held = [c for c in self._process.net_connections("tcp") if c.laddr.port == self._address[1]]
            found.left = sum(c.status == psutil.CONN_ESTABLISHED for c in held) - GOOD
            found.most = max(found.most, found.left)
            if found.left > 0:
                found.last_s = now
            await asyncio.sleep(0.5)

    async def _good(self, found: Run, end: float) -> None:
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection(*self._address, limit=1 << 20)
            writer.write(request(self._tokens, large=False))
            last: float | None = None
            while (line := await reader.readline()) and time.monotonic() < end:
                if line.startswith(b"data: {"):
                    now = time.monotonic()
                    if last is not None:
                        found.gaps_ms.append(1000 * (now - last))
                    last = now
            writer.close()

    async def _fast(self, end: float) -> None:
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection(*self._address)
            writer.write(request(self._tokens, large=True))
            while (await reader.read(1 << 16)) and time.monotonic() < end:
                pass
            writer.close()
            await asyncio.sleep(0.5)

    async def _slow(self, found: Run, end: float, *, reads: bool) -> None:
        loop = asyncio.get_running_loop()
        while time.monotonic() < end:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                await loop.sock_connect(client, self._address)
                await loop.sock_sendall(client, request(self._tokens, large=True))
                head = await loop.sock_recv(client, 64)
                if b" 429 " in head or not head:
                    await asyncio.sleep(1.0)
                    continue
                found.first_s = found.first_s or time.monotonic()
                await self._hold(found, client, end, reads=reads)
                return

    async def _hold(self, found: Run, client: socket.socket, end: float, *, reads: bool) -> None:
        while time.monotonic() < end:
            await asyncio.sleep(0.5)
            try:
                gone = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or (reads and not _read(client))
            except ConnectionError:
                gone = True
            if gone:
                found.cut += 1
                return


def _read(client: socket.socket) -> bool:
    """False at the end."""
    with contextlib.suppress(BlockingIOError):
        return bool(client.recv(512))
    return True


async def measure(url: str, pid: int, *, slow: int = 200, seconds: float = 90.0, tokens: int = 3000) -> Found:
    """The line to print, and whether all held: nobody is held for long, in little memory, at the cost of
    nobody else.
    """
    crowd = Crowd(url, pid, seconds, tokens)
    alone = await Crowd(url, pid, seconds / 4, tokens).run()
    beside_fast = await Crowd(url, pid, seconds / 2, tokens).run(fast=2 * slow)
    before = psutil.Process(pid).memory_info().rss / 1e6
    beside_slow = await crowd.run(slow=slow)
    grown = beside_slow.peak_mb - before
    ratio = beside_slow.p99_ms / alone.p99_ms
    last = beside_slow.last_s - beside_slow.first_s
    soon = beside_slow.most >= 2 * slow and last <= CUT_S and not beside_slow.left
    held = soon and grown <= MEMORY_MB and ratio <= RATIO
    told = [
        f"{slow} readers at 1 KB/s and {slow} that never read: {beside_slow.most} at once, none after",
        f"{last:.1f} s ({beside_slow.cut} of them saw it within {seconds:.0f} s);",
        f"the router grew by {grown:.0f} MB;",
        f"p99 between tokens of the others {alone.p99_ms:.1f} ms alone,",
        f"{beside_fast.p99_ms:.1f} ms beside {2 * slow} that read,",
        f"{beside_slow.p99_ms:.1f} ms beside the slow ({ratio:.2f}x alone)",
    ]
    return Found("F13: " + " ".join(told), held)


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("url")
    words.add_argument("--router-pid", type=int, required=True)
    words.add_argument("--slow", type=int, default=200, help="of each kind")
    words.add_argument("--seconds", type=float, default=90.0)
    words.add_argument("--tokens", type=int, default=3000, help="of each stream")
    asked = words.parse_args()
    found = asyncio.run(
        measure(asked.url, asked.router_pid, slow=asked.slow, seconds=asked.seconds, tokens=asked.tokens)
    )
    print(found.line, "pass" if found.held else "FAIL", sep=": ")
    return 0 if found.held else 1


if __name__ == "__main__":
    raise SystemExit(main())
