"""Routers that are nothing but a mailbox, and what a node needs to join them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq
from members import SECRET

from pagewire.layout import KVLayout
from pagewire.mailbox import NodeMailbox, Peer, RouterMailbox
from pagewire.messages import Beat, Epoch, Hello, NodeId, Welcome

HELLO = Hello(
    NodeId("decode-0"), Epoch("e1"), "decode", "0.1.0", 1, KVLayout(2, 1, 8, "float32", "m"), "tcp://127.0.0.1:1",
    "m", 64, 8, 16,
)  # fmt: skip
NODE = Peer(HELLO.node, HELLO.epoch)


class Router:
    """A mailbox that welcomes whoever says Hello, and answers heartbeats. With ``no``, it refuses instead."""

    def __init__(self, name: str, port: int = 0, no: str = "") -> None:
        self.no = no
        self.name = NodeId(name)
        self.mailbox = RouterMailbox(f"tcp://127.0.0.1:{port}", SECRET)
        self.address = self.mailbox.address
        self.hellos = self.beats = 0
        self._task = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        while True:
            peer, message = await self.mailbox.receive()
            if isinstance(message, Hello):
                self.hellos += 1
                self.mailbox.send(
                    peer, Welcome(self.name, Epoch("r"), self.no, 0 if self.no else message.session)
                )
            elif isinstance(message, Beat):
                self.beats += 1
                self.mailbox.send(peer, Beat(self.name, Epoch("r")))

    def refuse_now(self) -> bool:
        """Say no to NODE unasked."""
        return self.mailbox.send(NODE, Welcome(self.name, Epoch("r"), "not any more"))

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.mailbox.close()


async def until(probe: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not probe():
            await asyncio.sleep(0.01)


async def told(node: NodeMailbox, wanted: Any, seconds: float = 10.0) -> None:
    found: list[Any] = []
    async with asyncio.timeout(seconds):
        while wanted not in found:
            await asyncio.to_thread(node.socket.poll, 50, zmq.POLLIN)
            found += node.drain()
