"""A NIXL agent in a process of its own: ``python -m kv_transfer.transports.nixl_agent ENDPOINT``.

Apart from its node for three reasons. What UCX does without hardware for it, it does by messages that name
any address of the process that gets them: so this one has nothing but segments that were lent. A peer that
dies may leave a call into UCX that never returns: so this one may be killed at any moment. And it ends by
itself where UCX does not know how to go on. Knows links, segments and addresses; knows no frame and no peer,
and keeps nothing that its node could not tell the next one.
"""

from __future__ import annotations

import ctypes
import mmap
import secrets
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from nixl import _bindings
from nixl._api import nixl_agent, nixl_agent_config

from kv_transfer.transports import nixl_words as words
from kv_transfer.transports.base import Peer
from kv_transfer.transports.nixl_words import Word
from kv_transfer.transports.ring import map_offered
from kv_transfer.transports.zeromq import Dealers
from pagewire import lifeline
from pagewire.errors import RemoteProtocolError

_STEP_S = 5e-5  # between looks at what is under way
_ERRORS = tuple(e for e in vars(_bindings).values() if isinstance(e, type) and issubclass(e, Exception))


@dataclass(slots=True, eq=False)
class _Link:
    segment: mmap.mmap
    view: ctypes.Array[ctypes.c_char]
    registered: Any
    remote: str = ""
    reads: dict[int, Any] = field(default_factory=dict)  # handles by tag
    forgotten: bool = False

    @property
    def address(self) -> int:
        return ctypes.addressof(self.view)


class Agent:
    """Raises an error of NIXL if it cannot be made. ``says`` is to be sent."""

    def __init__(self) -> None:
        # No thread of its own: NIXL's would spin for as long as it lives.
        config = nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        self._nixl = nixl_agent(f"pagewire-{secrets.token_hex(8)}", config)
        self._links: dict[int, _Link] = {}
        self._awake = False
        self.says: list[Word] = [Word(words.READY)]

    @property
    def busy(self) -> bool:
        return self._awake or any(link.reads for link in self._links.values())

    def obey(self, word: Word) -> None:
        match word.kind, word.numbers:
            case words.LEND, (link,):
                self._lend(link, word.blob)
            case words.MEET, (link,):
                self._meet(link, word.blob)
            case words.READ, (link, tag, at, address, size):
                self._read(link, tag, at, address, size)
            case words.FORGET, (link,) if link in self._links:
                self._links[link].forgotten = True
            case words.AWAKE, (awake,):
                self._awake = bool(awake)
        self._drop_forgotten()

    def progress(self) -> None:
        """Go on with what is under way, here and for others."""
        for link in self._links.values():
            for tag, handle in list(link.reads.items()):
                if (state := self._state(handle)) != "PROC":
                    del link.reads[tag]
                    self.says.append(Word(words.DONE if state == "DONE" else words.FAILED, (tag,)))
        self._nixl.get_new_notifs()  # makes progress; nobody notifies us of anything
        self._drop_forgotten()

    def _lend(self, number: int, offer: bytes) -> None:
        try:
            segment = map_offered(offer, writable=True)
        except RemoteProtocolError as error:
            print(f"nixl: {error}", file=sys.stderr)
            return
        view = (ctypes.c_char * len(segment)).from_buffer(segment)
        try:
            registered = self._nixl.register_memory([(ctypes.addressof(view), len(segment), 0, "")], "DRAM")
            metadata = self._nixl.get_partial_agent_metadata(registered, True, ["UCX"])
        except _ERRORS as error:
            print(f"nixl: cannot register memory: {error}", file=sys.stderr)
            return
        link = self._links[number] = _Link(segment, view, registered)
        self.says.append(Word(words.LENT, (number, link.address), metadata))

    def _meet(self, number: int, metadata: bytes) -> None:
        if (link := self._links.get(number)) is not None:
            try:
                name = self._nixl.add_remote_agent(metadata)
            except _ERRORS as error:
                print(f"nixl: not an agent that can be met: {error}", file=sys.stderr)
                return
            link.remote = name.decode() if isinstance(name, bytes) else name

    def _read(self, number: int, tag: int, at: int, address: int, size: int) -> None:
        link = self._links.get(number)
        if link is None or not link.remote or at + size > len(link.segment):
            self.says.append(Word(words.FAILED, (tag,)))
            return
        try:
            here = self._nixl.get_xfer_descs([(link.address + at, size, 0)], "DRAM")
            there = self._nixl.get_xfer_descs([(address, size, 0)], "DRAM")
            handle = self._nixl.initialize_xfer("READ", here, there, link.remote)
            self._nixl.transfer(handle)
        except _ERRORS:
            self.says.append(Word(words.FAILED, (tag,)))
            return
        link.reads[tag] = handle

    def _state(self, handle: Any) -> str:
        """PROC as long as it is under way. It gives itself back when nobody holds it any more."""
        try:
            return str(self._nixl.check_xfer_state(handle))
        except _ERRORS:
            return "ERR"

    def _drop_forgotten(self) -> None:
        for number, link in list(self._links.items()):
            if link.forgotten and not link.reads:
                del self._links[number]
                self._drop(link)

    def _drop(self, link: _Link) -> None:
        try:
            self._nixl.deregister_memory(link.registered)
            if link.remote and all(other.remote != link.remote for other in self._links.values()):
                self._nixl.remove_remote_agent(link.remote)
        except _ERRORS as error:
            print(f"nixl: {error}", file=sys.stderr)


def main(endpoint: str) -> None:
    lifeline.watch(0)
    node, dealers = Peer(endpoint.encode()), Dealers(None)
    agent = Agent()
    while not dealers.lost([node]):
        for word in agent.says:
            dealers.send(node, word.parts())
        agent.says.clear()
        if agent.busy:
            time.sleep(_STEP_S)
        else:
            dealers.sockets()[0].poll(1000)
        for message in dealers.receive():
            agent.obey(Word.of(message.parts))
        if agent.busy:
            agent.progress()


if __name__ == "__main__":
    main(sys.argv[1])
