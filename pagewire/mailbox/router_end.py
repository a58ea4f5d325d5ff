"""The router's end of the mailbox: what nodes say, and words to them.

Knows one listening socket and who may speak there; which nodes there are is known to ``router.fleet``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any, cast

import zmq
import zmq.asyncio

from pagewire.audit import Audit, clean
from pagewire.codec import NewerMessage
from pagewire.errors import ConfigError, RemoteProtocolError
from pagewire.guard import Refusals
from pagewire.mailbox.sockets import Peer, bounded, identity
from pagewire.mailbox.words import SPEAKS, TO_NODE, TO_ROUTER, foreign
from pagewire.messages import DECODE, PREFILL, ROUTER, WORKER, Epoch, Hello, NodeId, Welcome
from pagewire.secret import apply_server, require_for

log = logging.getLogger("pagewire.mailbox")


class RouterMailbox:
    """The router's end, for asyncio."""

    def __init__(self, address: str, secret: bytes | None = None) -> None:
        require_for(address, secret)
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        bounded(self._socket)
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
        if len(parts) == 2 and (version := foreign(parts[1])) is not None:
            why = f"version {clean(version, 40)} does not go with {SPEAKS}"
            with contextlib.suppress(zmq.ZMQError):
                answer = TO_NODE.encode(Welcome(NodeId(""), Epoch(""), refused=why))
                self._socket.send_multipart([parts[0], answer], flags=zmq.NOBLOCK)
        name = parts[0].decode("ascii", "backslashreplace")
        self._audit.note(time.monotonic(), f"refused a message of {name}: {why}")

    def send(self, peer: Peer, message: object) -> bool:
        """Queue ``message`` for ``peer``. False if it is not connected or does not read."""
        frames = [identity(peer), TO_NODE.encode(message)]
        # Without waiting pyzmq tries at once, so that the future it returns has its result already.
        sent = cast("asyncio.Future[Any]", self._socket.send_multipart(frames, flags=zmq.NOBLOCK))
        return sent.done() and sent.exception() is None

    def close(self) -> None:
        self._socket.close(linger=0)
        if (guard := getattr(self, "_guard", None)) is not None:
            guard.stop()
        self._context.term()


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
