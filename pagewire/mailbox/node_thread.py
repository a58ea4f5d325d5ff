"""A node's lines to its routers, on a thread of their own: a long forward step delays no heartbeat.

Knows sockets, heartbeats and who is joined; passes on what routers say without looking into it. What the node
says of itself is set by others (``Said``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from pagewire.audit import clean
from pagewire.codec import NewerMessage
from pagewire.errors import RemoteProtocolError
from pagewire.mailbox.line import BEAT_EVERY_S
from pagewire.mailbox.sockets import Peer, pair, try_send
from pagewire.mailbox.wire import Wire
from pagewire.mailbox.wires import Wires
from pagewire.mailbox.words import TO_NODE, TO_ROUTER, refusal
from pagewire.messages import WORKER, Beat, Hello, Load, NodeId, Welcome

log = logging.getLogger("pagewire.mailbox")


@dataclass(slots=True)
class Said:
    """What routers hear of a node. Any thread may set a field; heartbeats carry it."""

    hello: Hello
    load: Load = field(default_factory=Load)
    draining: bool = False


class NodeThread:
    """Dials ``wanted`` from its first moment. Whoever sets ``wanted`` or ``stopping`` rings NAME-call then;
    words for a router go to NAME-out, as its name and the message, and what routers say comes to NAME-in,
    an empty message for one that is lost. ``refused`` gets the reasons once all routers say no.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
        said: Said,
        wanted: Iterable[str],
        secret: bytes | None,
        refused: Callable[[str], None] | None,
    ) -> None:
        self.wanted = tuple(dict.fromkeys(wanted))
        self.stopping = False
        self.up: frozenset[str] = frozenset()  # addresses whose router has welcomed us and is heard
        self.unread = 0  # messages of routers that were not well-formed
        self.newer = 0  # and those that only a newer version has a word for
        self._said, self._refused = said, refused
        self._inbound, self._outbound, self._called = (
            pair(context, name + end, bind=True) for end in ("-in", "-out", "-call")
        )
        hello = said.hello
        side = WORKER if hello.roles else hello.role
        self._wires = Wires(context, Peer(hello.node, hello.epoch), side, secret)
        for address in self.wanted:
            self._wires.dial(address)
        self._thread = threading.Thread(target=self._run, name="mailbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        for socket in (self._outbound, self._called):
            self._wires.listen(socket)
        next_beat = 0.0
        while not self.stopping:
            now = time.monotonic()
            for wire in self._wires:
                if wire.line.silent(now):
                    self._lost(wire.line.lost())
            self._wires.dial_abandoned(now)
            if now >= next_beat:
                self._beat(now)
                next_beat = now + BEAT_EVERY_S
            ready = self._wires.poll(min(next_beat, self._wires.silent_at) - now)
            for wire in self._wires:
                self._attend(wire, ready)
            if self._outbound in ready:
                self._speak()
            if self._called in ready:
                self._change()
        self._speak()
        self._wires.close()
        for inner in (self._inbound, self._outbound, self._called):
            inner.close(linger=0)

    def _attend(self, wire: Wire, ready: dict[Any, int]) -> None:
        greeting = wire.line.greeting
        if wire.monitor in ready:
            self._noticed(wire)
        events = ready.get(wire.socket, 0)
        if events & zmq.POLLIN:
            self._hear(wire, time.monotonic())
        if events & zmq.POLLOUT and wire.line.greeting and self._greet(wire):
            wire.line.greeting = False
        if wire.line.greeting != greeting:
            self._wires.look_again(wire)

    def _change(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._called.recv(zmq.NOBLOCK)
        for router in self._wires.change(self.wanted):
            self._lost(router)

    # --- what is said ---------------------------------------------------------------------------------------

    def _beat(self, now: float) -> None:
        said = self._said
        for wire in self._wires:
            if wire.line.joined:
                beat = Beat(said.hello.node, said.hello.epoch, said.load, said.hello.role, said.draining)
                try_send(wire.socket, TO_ROUTER.encode(beat))
            elif wire.line.wants_in(now):
                self._greet(wire)

    def _greet(self, wire: Wire) -> bool:
        hello = replace(self._said.hello, session=wire.line.session)
        return try_send(wire.socket, TO_ROUTER.encode(hello))

    def _speak(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                router, data = self._outbound.recv_multipart(zmq.NOBLOCK)
                if not router and not self.stopping:  # what we offer has changed
                    self._beat(time.monotonic())
                for wire in self._wires:
                    if wire.line.joined and wire.line.router == router.decode():
                        try_send(wire.socket, data)

    # --- what is heard --------------------------------------------------------------------------------------

    def _noticed(self, wire: Wire) -> None:
        """The connection came up, or broke."""
        while wire.monitor.poll(0):
            event = recv_monitor_message(wire.monitor)["event"]
            if (warning := wire.dialling.saw(time.monotonic(), event)) is not None:
                log.warning("%s", warning)
            if event == zmq.EVENT_DISCONNECTED:
                self._lost(wire.line.cut())
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                wire.line.connected()

    def _hear(self, wire: Wire, now: float) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                parts = wire.socket.recv_multipart(zmq.NOBLOCK)
                data = parts[0] if len(parts) == 1 else b""
                wire.line.heard = now
                try:
                    self._sort(wire, data, TO_NODE.decode(data), now)
                except NewerMessage:
                    self.newer += 1
                except RemoteProtocolError:
                    self.unread += 1
                    if (refused := refusal(data)) is not None:
                        self._sort(wire, data, refused, now)

    def _sort(self, wire: Wire, data: bytes, message: Any, now: float) -> None:
        line = wire.line
        match message:
            case Welcome(refused=reason) if reason:
                self._turned_down(wire, now, reason)
            case Welcome(session=0):  # it does not know us, or no longer
                if line.joined:
                    self._lost(line.lost())
                    self._greet(wire)
            case Welcome():
                if line.welcomed(message):
                    self.up = self._wires.up
            case Beat():
                pass
            case _ if line.joined and line.router is not None:
                with contextlib.suppress(zmq.Again):
                    self._inbound.send_multipart([line.router.encode(), data], zmq.NOBLOCK)
            case _:
                pass

    def _turned_down(self, wire: Wire, now: float, reason: str) -> None:
        if wire.line.joined:
            self._lost(wire.line.lost())
        news = wire.line.turned_down(now, reason)
        reasons = self._wires.refusals
        if self._refused is not None and all(reasons):
            self._refused("; ".join(dict.fromkeys(reasons)))
        elif news:
            log.warning("the router at %s refused this node: %s", wire.address, clean(reason))

    def _lost(self, router: NodeId | None) -> None:
        if router is None:
            return
        self.up = self._wires.up
        with contextlib.suppress(zmq.Again):
            self._inbound.send_multipart([router.encode(), b""], zmq.NOBLOCK)
