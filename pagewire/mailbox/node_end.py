"""A node's end of the mailbox, as its loop sees it: what routers say, words to them, and which there are.

Knows messages and the pairs of sockets that lead to the mailbox's own thread (``node_thread``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import zmq

from pagewire.mailbox.node_thread import NodeThread, Said
from pagewire.mailbox.sockets import pair, try_send
from pagewire.mailbox.words import TO_NODE, TO_ROUTER
from pagewire.messages import Hello, Load, NodeId


class RouterLost(NamedTuple):
    """A router fell silent, restarted, or has given this node up: what runs for it is to be dropped."""

    router: NodeId


class NodeMailbox:
    """A node's end, for one loop thread; ``set_routers`` and ``up`` are for any. ``socket`` becomes readable
    when ``drain`` has something.
    """

    def __init__(
        self,
        hello: Hello,
        routers: list[str],
        secret: bytes | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        """Dial ``routers``. Once all of them say no, ``refused`` gets the reasons, on the mailbox's thread.
        Else one that says no is named in the log; it is asked again when it comes back, and seldom before.
        """
        self._context = zmq.Context()
        self._said = Said(hello)
        name = f"inproc://mailbox-{id(self)}"
        self._thread = NodeThread(self._context, name, self._said, routers, secret, refused)
        self.socket = pair(self._context, name + "-in", bind=False)
        self._out = pair(self._context, name + "-out", bind=False)
        self._call = pair(self._context, name + "-call", bind=False)
        self._calling = threading.Lock()  # for the end of a pair that several threads use
        self._thread.start()

    def drain(self) -> list[tuple[NodeId, Any]]:
        """All messages that are here now, oldest first, each with its router. Does not block."""
        found: list[tuple[NodeId, Any]] = []
        with contextlib.suppress(zmq.Again):
            while True:
                router, data = self.socket.recv_multipart(zmq.NOBLOCK)
                name = NodeId(router.decode())
                found.append((name, TO_NODE.decode(data) if data else RouterLost(name)))
        return found

    def send(self, router: NodeId, message: object) -> None:
        """Queue ``message`` for ``router``. Dropped if that router is gone: it has forgotten us as well."""
        with contextlib.suppress(zmq.Again):
            self._out.send_multipart([router.encode(), TO_ROUTER.encode(message)], zmq.NOBLOCK)

    def set_routers(self, addresses: Iterable[str]) -> None:
        """Dial ``addresses`` from now on, and no other. A line that is up and not among them is cut, and what
        runs for its router is lost. No two may lead to the same router.
        """
        with self._calling:
            self._thread.wanted = tuple(dict.fromkeys(addresses))
            if not self._thread.stopping:
                try_send(self._call, b"")

    @property
    def up(self) -> frozenset[str]:
        """The addresses whose router has welcomed us and is heard."""
        return self._thread.up

    def report(self, load: Load) -> None:
        """What the next heartbeats are to say."""
        counts = {"mailbox_refused": float(self._thread.unread), "mailbox_newer": float(self._thread.newer)}
        self._said.load = replace(load, gauges=load.gauges | counts)

    def take_role(self, role: str) -> None:
        """Offer ``role`` from now on; routers hear of it at once."""
        self._said.hello = replace(self._said.hello, role=role)
        self._wake()

    def start_draining(self) -> None:
        """Want no new work from now on; routers hear of it at once."""
        self._said.draining = True
        self._wake()

    def close(self) -> None:
        """Send what is queued and hang up."""
        with self._calling:
            self._thread.stopping = True
            try_send(self._call, b"")  # not waiting: it may have seen the line above, and be gone
        self._thread.join(timeout=5)
        for socket in (self.socket, self._out, self._call):
            socket.close(linger=0)
        self._context.term()

    def _wake(self) -> None:
        with contextlib.suppress(zmq.Again):
            self._out.send_multipart([b"", b""], zmq.NOBLOCK)
