"""Messages between the router and its nodes: who is connected, and ordered delivery while both live.

Nodes dial routers (ZeroMQ DEALER to ROUTER), so that only the router needs an address. Knows peers, bytes and
heartbeats; knows no request. Nothing is delivered twice; what was on its way when a process died is lost, and
the other side is told: the router by a missing heartbeat, the node by a RouterLost.

A node's sockets live on a thread of their own, so that a long forward step delays no heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from pagewire import __version__
from pagewire import messages as m
from pagewire.audit import Audit, clean
from pagewire.codec import MAX_MESSAGE_BYTES, Codec, NewerMessage, unseal
from pagewire.dialling import EVENTS, Dialling
from pagewire.errors import ConfigError, RemoteProtocolError
from pagewire.guard import Refusals
from pagewire.messages import DECODE, PREFILL, ROUTER, WORKER, Beat, Epoch, Hello, Load, NodeId, Welcome
from pagewire.schema import fingerprint
from pagewire.secret import apply_client, apply_server, require_for
from pagewire.versions import LEVEL, goes_with

BEAT_EVERY_S = 0.5
LOST_AFTER_S = 3.0  # the router gives a silent node up
GIVEN_UP_AFTER_S = 2.75  # a node a silent router: what it does for a dead one is to end within LOST_AFTER_S
_HANDSHAKE_MS = 2500
_QUEUE = 10_000  # messages held for a peer that does not read; beyond it, sends report failure

TO_ROUTER = Codec(m.Hello, m.Beat, m.Tokens, m.Failed, m.PagesChanged)
TO_NODE = Codec(m.Welcome, m.Beat, m.PrefillRequest, m.Cancel, m.PagesWanted, m.TakeRole)
NODE_TO_NODE = Codec(m.Handoff, m.FirstTokens)  # these ride inside kv_transfer's frames

SPEAKS = f"{__version__}+{fingerprint(TO_ROUTER, TO_NODE, NODE_TO_NODE)}"  # what Hello calls its version

log = logging.getLogger("pagewire.mailbox")


class Peer(NamedTuple):
    """A node in one of its lives."""

    node: NodeId
    epoch: Epoch


class RouterMailbox:
    """The router's end, for asyncio."""

    def __init__(self, address: str, secret: bytes | None = None) -> None:
        require_for(address, secret)
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        _bound(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # A node that dials again is heard on its new line, even before the old one is known to be cut: else
        # its messages would be dropped for as long as the new line holds.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._guard = apply_server(self._socket, secret, ROUTER, (PREFILL, DECODE, WORKER))
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"cannot listen on {address}: {error.strerror}") from error
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.refused = 0  # messages that were not well-formed
        self.newer = 0  # and those that only a newer version has a word for
        self._audit = Audit(log)

    @property
    def refusals(self) -> Refusals:
        """Connections that were not let in."""
        return Refusals() if self._guard is None else self._guard.refusals

    async def receive(self) -> tuple[Peer, Any]:
        """The next well-formed message and who sent it."""
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            if self._guard is not None:
                self._guard.met(frames[0])
            parts = [frame.bytes for frame in frames]
            try:
                return _received(parts, "" if self._guard is None else str(frames[-1].get("User-Id")))
            except NewerMessage:
                self.newer += 1
            except RemoteProtocolError as error:
                self._refuse(parts, str(error))

    def _refuse(self, parts: list[bytes], why: str) -> None:
        """Count a message that cannot be taken; a node of another version is told so."""
        self.refused += 1
        if len(parts) == 2 and (version := _foreign(parts[1])) is not None:
            why = f"version {clean(version, 40)} does not go with {SPEAKS}"
            with contextlib.suppress(zmq.ZMQError):
                answer = TO_NODE.encode(Welcome(NodeId(""), Epoch(""), refused=why))
                self._socket.send_multipart([parts[0], answer], flags=zmq.NOBLOCK)
        name = parts[0].decode("ascii", "backslashreplace")
        self._audit.note(time.monotonic(), f"refused a message of {name}: {why}")

    def send(self, peer: Peer, message: object) -> bool:
        """Queue ``message`` for ``peer``. False if it is not connected or does not read."""
        frames = [_identity(peer), TO_NODE.encode(message)]
        # Without waiting pyzmq tries at once, so that the future it returns has its result already.
        sent = cast("asyncio.Future[Any]", self._socket.send_multipart(frames, flags=zmq.NOBLOCK))
        return sent.done() and sent.exception() is None

    def close(self) -> None:
        self._socket.close(linger=0)
        if (guard := getattr(self, "_guard", None)) is not None:
            guard.stop()
        self._context.term()


class RouterLost(NamedTuple):
    """A router fell silent, restarted, or has given this node up: what runs for it is to be dropped."""

    router: NodeId


@dataclass(slots=True)
class _Line:
    """One router as the node's thread sees it. ``session`` rises whenever something may have been lost on
    the way: the router then gives up what it believes to be here, as we do.
    """

    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    dialling: Dialling
    session: int = 1
    router: NodeId | None = None  # None until it has welcomed us
    epoch: Epoch | None = None
    heard: float = 0.0
    joined: bool = False


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
        """Dial ``routers``. If one says no, ``refused`` gets the reason, on the mailbox's thread."""
        self._hello = hello
        self._refused = refused
        self._context = zmq.Context()
        name = f"inproc://mailbox-{id(self)}"
        self._inbound = _pair(self._context, name + "-in", bind=True)
        self._outbound = _pair(self._context, name + "-out", bind=True)
        self.socket = _pair(self._context, name + "-in", bind=False)
        self._out = _pair(self._context, name + "-out", bind=False)
        self._called = _pair(self._context, name + "-call", bind=True)
        self._call = _pair(self._context, name + "-call", bind=False)
        self._calling = (
            threading.Lock()
        )  # for the end of a pair that several threads use, and whether it is open
        self._load = Load()
        self._draining = False
        self._unread = 0  # messages of routers that were not well-formed
        self._newer = 0  # and those that only a newer version has a word for
        self._stopping = False
        self._secret = secret
        self._wanted = tuple(dict.fromkeys(routers))
        self._lines = {address: self._dial(address) for address in self._wanted}
        self._up: frozenset[str] = frozenset()
        self._thread = threading.Thread(target=self._run, name="mailbox", daemon=True)
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
            self._wanted = tuple(dict.fromkeys(addresses))
            if not self._stopping:
                _try_send(self._call, b"")

    @property
    def up(self) -> frozenset[str]:
        """The addresses whose router has welcomed us and is heard."""
        return self._up

    def report(self, load: Load) -> None:
        """What the next heartbeats are to say."""
        counts = {"mailbox_refused": float(self._unread), "mailbox_newer": float(self._newer)}
        self._load = replace(load, gauges=load.gauges | counts)

    def take_role(self, role: str) -> None:
        """Offer ``role`` from now on; routers hear of it at once."""
        self._hello = replace(self._hello, role=role)
        self._wake()

    def start_draining(self) -> None:
        """Want no new work from now on; routers hear of it at once."""
        self._draining = True
        self._wake()

    def close(self) -> None:
        """Send what is queued and hang up."""
        with self._calling:
            self._stopping = True
            _try_send(self._call, b"")  # not waiting: it may have seen the line above, and be gone
        self._thread.join(timeout=5)
        for socket in (self.socket, self._out, self._call):
            socket.close(linger=0)
        self._context.term()

    def _wake(self) -> None:
        with contextlib.suppress(zmq.Again):
            self._out.send_multipart([b"", b""], zmq.NOBLOCK)

    # --- on the mailbox's own thread ------------------------------------------------------------------------

    def _dial(self, address: str) -> _Line:
        socket = self._context.socket(zmq.DEALER)
        _bound(socket)
        socket.setsockopt(zmq.IDENTITY, _identity(Peer(self._hello.node, self._hello.epoch)))
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, _HANDSHAKE_MS)  # the kernel's own tries get ever rarer
        side = WORKER if self._hello.roles else self._hello.role
        apply_client(socket, self._secret, side, ROUTER)
        line = _Line(socket, socket.get_monitor_socket(EVENTS), Dialling(address))
        try:
            socket.connect(address)
        except zmq.ZMQError:
            _hang_up(line)
            raise
        return line

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (self._outbound, self._called, *itertools.chain(*map(_sockets, self._lines.values()))):
            poller.register(socket, zmq.POLLIN)
        next_beat = 0.0
        while not self._stopping:
            now = time.monotonic()
            for line in self._silent(now):
                self._lose(line)
            for line in self._lines.values():
                if line.dialling.abandoned(now):
                    _dial_again(line)
            if now >= next_beat:
                self._beat()
                next_beat = now + BEAT_EVERY_S
            heard = (line.heard + GIVEN_UP_AFTER_S for line in self._lines.values() if line.joined)
            due = min((next_beat, *heard))
            ready = dict(poller.poll(max(1, int((due - now) * 1000))))
            for line in self._lines.values():
                if line.monitor in ready:
                    self._noticed(line)
                if line.socket in ready:
                    self._hear(line, time.monotonic())
            if self._outbound in ready:
                self._speak()
            if self._called in ready:
                self._change(poller)
        self._speak()
        for line in self._lines.values():
            _hang_up(line)
        for inner in (self._inbound, self._outbound, self._called):
            inner.close(linger=0)

    def _change(self, poller: zmq.Poller) -> None:
        """Hang up on routers that are not wanted any more, and dial those that are new."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._called.recv(zmq.NOBLOCK)
        wanted = self._wanted
        for address in [address for address in self._lines if address not in wanted]:
            line = self._lines[address]
            self._lose(line)
            for socket in _sockets(line):
                poller.unregister(socket)
            _hang_up(self._lines.pop(address))
        for address in wanted:
            if address not in self._lines:
                try:
                    self._lines[address] = line = self._dial(address)
                except zmq.ZMQError as error:
                    log.warning("cannot dial %s: %s", clean(address), error.strerror)
                    continue
                for socket in _sockets(line):
                    poller.register(socket, zmq.POLLIN)

    def _silent(self, now: float) -> list[_Line]:
        lines = self._lines.values()
        return [line for line in lines if line.joined and now - line.heard >= GIVEN_UP_AFTER_S]

    def _note_up(self) -> None:
        self._up = frozenset(address for address, line in self._lines.items() if line.joined)

    def _beat(self) -> None:
        for line in self._lines.values():
            if line.joined:
                hello = self._hello
                beat = Beat(hello.node, hello.epoch, self._load, hello.role, self._draining)
                _try_send(line.socket, TO_ROUTER.encode(beat))
            else:
                self._greet(line)

    def _greet(self, line: _Line) -> None:
        _try_send(line.socket, TO_ROUTER.encode(replace(self._hello, session=line.session)))

    def _noticed(self, line: _Line) -> None:
        """The connection came up, or broke: what was under way is gone then, whichever way it went."""
        while line.monitor.poll(0):
            event = recv_monitor_message(line.monitor)["event"]
            if (warning := line.dialling.saw(time.monotonic(), event)) is not None:
                log.warning("%s", warning)
            if event == zmq.EVENT_DISCONNECTED:
                self._lose(line)
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED and not line.joined:
                self._greet(line)

    def _hear(self, line: _Line, now: float) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                parts = line.socket.recv_multipart(zmq.NOBLOCK)
                data = parts[0] if len(parts) == 1 else b""
                line.heard = now
                try:
                    self._sort(line, data, TO_NODE.decode(data))
                except NewerMessage:
                    self._newer += 1
                except RemoteProtocolError:
                    self._unread += 1
                    if (refusal := _refusal(data)) is not None:
                        self._sort(line, data, refusal)

    def _sort(self, line: _Line, data: bytes, message: Any) -> None:
        match message:
            case Welcome(refused=reason) if reason:
                if self._refused is not None:
                    self._refused(reason)
            case Welcome(session=0):  # it does not know us, or no longer
                if line.joined:
                    self._lose(line)
                    self._greet(line)
            case Welcome(router, epoch, session=session):
                if session == line.session:
                    line.router, line.epoch, line.joined = router, epoch, True
                    self._note_up()
            case Beat():
                pass
            case _ if line.joined and line.router is not None:
                with contextlib.suppress(zmq.Again):
                    self._inbound.send_multipart([line.router.encode(), data], zmq.NOBLOCK)
            case _:
                pass

    def _lose(self, line: _Line) -> None:
        line.session += 1
        if not line.joined:
            return
        assert line.router is not None
        line.joined = False
        self._note_up()
        with contextlib.suppress(zmq.Again):
            self._inbound.send_multipart([line.router.encode(), b""], zmq.NOBLOCK)

    def _speak(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                router, data = self._outbound.recv_multipart(zmq.NOBLOCK)
                if not router and not self._stopping:  # what we offer has changed
                    self._beat()
                for line in self._lines.values():
                    if line.joined and line.router == router.decode():
                        _try_send(line.socket, data)


def _bound(socket: zmq.Socket[Any] | zmq.asyncio.Socket) -> None:
    """No queue, message or wait without a limit."""
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.SNDHWM, _QUEUE),
        (zmq.RCVHWM, _QUEUE),
        (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
        (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
        (zmq.HEARTBEAT_IVL, 1000),
        (zmq.HEARTBEAT_TIMEOUT, 3000),
    ):
        socket.setsockopt(option, value)


def _pair(context: zmq.Context[Any], name: str, *, bind: bool) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.SNDHWM, _QUEUE)
    socket.setsockopt(zmq.RCVHWM, _QUEUE)
    if bind:
        socket.bind(name)
    else:
        socket.connect(name)
    return socket


def _sockets(line: _Line) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    return line.socket, line.monitor


def _hang_up(line: _Line) -> None:
    line.socket.disable_monitor()
    line.monitor.close(linger=0)
    line.socket.close(linger=200)


def _dial_again(line: _Line) -> None:
    with contextlib.suppress(zmq.ZMQError):  # it may have forgotten the address by itself
        line.socket.disconnect(line.dialling.address)
    line.socket.connect(line.dialling.address)


def _try_send(socket: zmq.Socket[bytes], data: bytes) -> None:
    with contextlib.suppress(zmq.Again):
        socket.send(data, zmq.NOBLOCK)


def _identity(peer: Peer) -> bytes:
    return f"{peer.node}/{peer.epoch}".encode()


def _received(frames: list[bytes], role: str) -> tuple[Peer, Any]:
    """``role`` is that of the sender's key, "" where there are no keys."""
    if len(frames) != 2:
        raise RemoteProtocolError("a message has two frames")
    try:
        node, epoch = frames[0].decode().rsplit("/", 1)
    except ValueError as error:
        raise RemoteProtocolError("not a node's identity") from error
    message = TO_ROUTER.decode(frames[1])
    if role and isinstance(message, Hello) and (WORKER if message.roles else message.role) != role:
        raise RemoteProtocolError(
            f"it says that it is a {clean(message.role, 40)} node, with a {role} node's key"
        )
    return Peer(NodeId(node), Epoch(epoch)), message


# Two things may be read whatever the version: which one a Hello is of, and that a Welcome refuses.


def _foreign(data: bytes) -> str | None:
    """The version in a Hello that does not go with ours."""
    with contextlib.suppress(RemoteProtocolError):
        match unseal(data):
            case [*_, "Hello", {"version": str(version)}] if not goes_with(version, SPEAKS):
                return version
    return None


def _refusal(data: bytes) -> Welcome | None:
    """The Welcome of a router whose version does not go with ours, and that says so."""
    with contextlib.suppress(RemoteProtocolError):
        match unseal(data):
            case [int(level), "Welcome", {"refused": str(reason)}] if abs(level - LEVEL) > 1 and reason:
                return Welcome(NodeId(""), Epoch(""), refused=clean(reason))
    return None
