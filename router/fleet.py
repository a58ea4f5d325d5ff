"""Which nodes there are, in which of their lives, and how they do.

Pure: events and ``now`` in, answers and changes out. Knows Hello and Beat; knows no request, socket or clock.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pagewire.audit import clean
from pagewire.errors import ConfigError
from pagewire.mailbox import BEAT_EVERY_S, LOST_AFTER_S, Peer
from pagewire.messages import DECODE, PREFILL, Beat, Epoch, Hello, Load, NodeId, Welcome
from pagewire.rates import told
from pagewire.topology import Place, place_of
from pagewire.versions import goes_with, level_of

SLEPT_S = 1.0  # between two sweeps
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


class NodeJoined(NamedTuple):
    peer: Peer


class NodeLost(NamedTuple):
    peer: Peer
    role: str
    reason: str


class NodeTurned(NamedTuple):
    """It offers something else: another ``role``, or nothing new any more."""

    peer: Peer
    role: str
    draining: bool


Change = NodeJoined | NodeLost | NodeTurned


@dataclass(slots=True)
class Node:
    """A node that was welcomed. ``heard`` is when its last message came, in the caller's seconds. ``role`` is
    what it offers now, unless it is ``draining``."""

    hello: Hello
    heard: float
    load: Load
    suspect: bool = False
    draining: bool = False
    role: str = field(init=False)
    peer: Peer = field(init=False)
    level: int | None = field(init=False)  # of its version
    place: Place = field(init=False)
    measured: Mapping[str, float] = field(init=False)  # its rates, as far as it has told them

    def __post_init__(self) -> None:
        self.role = self.hello.role
        self.peer = Peer(self.hello.node, self.hello.epoch)
        self.level = level_of(self.hello.version)
        self.place = place_of(self.hello.topology)
        self.reported(self.load)

    def reported(self, load: Load) -> None:
        self.load, self.measured = load, told(load.gauges)


@dataclass(slots=True)
class Fleet:
    """The nodes of one router, which calls itself ``router`` and ``epoch`` and is of ``version``.

    ``colocated``: no prefill node is expected, and where there is none decode nodes read prompts themselves.
    """

    router: NodeId
    epoch: Epoch
    version: str
    suspect_after: float = 1.5
    lost_after: float = LOST_AFTER_S
    colocated: bool = False
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    turns: int = 0  # how often it has changed who offers what
    _had_prefill: bool = False
    _offering: dict[str, tuple[Node, ...]] = field(default_factory=dict)  # of each role, until the next turn
    _swept: float | None = None
    _replaced: dict[NodeId, deque[Epoch]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=8))
    )

    def hello(self, now: float, peer: Peer, hello: Hello) -> tuple[Welcome | None, list[Change]]:
        """A node introduces itself. The answer is None where the Hello is an old one.

        In a new session the node has dropped whatever we gave it: for its requests it was lost.
        """
        if reason := self._refusal(peer, hello):
            return self._welcome(refused=reason), []
        known = self.nodes.get(hello.node)
        if known is not None and known.peer == peer and hello.session <= known.hello.session:
            known.heard = now
            return (self._welcome(hello.session) if hello.session == known.hello.session else None), []
        changes: list[Change] = []
        if known is not None:
            if known.peer != peer:
                self._replaced[hello.node].append(known.hello.epoch)
            why = "it restarted" if known.peer != peer else "it had given this router up"
            changes.append(NodeLost(known.peer, known.role, why))
        self._had_prefill = self._had_prefill or hello.role == PREFILL
        load = Load(pages_free=hello.num_pages, pages_total=hello.num_pages)
        self._turn()
        self.nodes[hello.node] = Node(hello, heard=now, load=load)
        changes.append(NodeJoined(peer))
        return self._welcome(hello.session), changes

    def beat(self, now: float, peer: Peer, beat: Beat) -> tuple[Welcome | None, list[Change]]:
        """A heartbeat. A Welcome in answer asks a node that is not known for its Hello."""
        node = self.get(peer)
        if node is None:
            return None if peer.epoch in self._replaced.get(peer.node, ()) else self._welcome(), []
        node.heard, node.suspect = now, False
        node.reported(beat.load)
        role = beat.role if beat.role in node.hello.roles else node.hello.role
        if (role, beat.draining) == (node.role, node.draining):
            return None, []
        node.role, node.draining = role, beat.draining
        self._turn()
        self._had_prefill = self._had_prefill or role == PREFILL
        return None, [NodeTurned(peer, role, beat.draining)]

    def heard(self, now: float, peer: Peer) -> bool:
        """Any other message came from ``peer``. False if it is not one of ours, and is to be ignored."""
        node = self.get(peer)
        if node is None:
            return False
        node.heard, node.suspect = now, False
        return True

    def sweep(self, now: float) -> list[Change]:
        """Suspect the silent and give up those that stay silent. Called often; when it was not, this process
        slept, and what the nodes said meanwhile has yet to be read: that time does not count against them.
        """
        if self._swept is not None and (slept := now - self._swept) > SLEPT_S:
            for node in self.nodes.values():
                node.heard = min(now, node.heard + slept)
        self._swept = now
        lost = [node for node in self.nodes.values() if now - node.heard >= self.lost_after]
        for node in self.nodes.values():
            node.suspect = now - node.heard >= self.suspect_after
        for node in lost:
            del self.nodes[node.hello.node]
            self._turn()
        reason = f"silent for {self.lost_after:g} s"
        return [NodeLost(node.peer, node.role, reason) for node in lost]

    def silent(self, now: float, peer: Peer) -> bool:
        """True if ``peer`` missed a heartbeat; else one that cannot be reached may be reconnecting."""
        node = self.get(peer)
        return node is not None and now - node.heard >= BEAT_EVERY_S * 1.5

    def drop(self, peer: Peer, reason: str) -> list[Change]:
        """Give ``peer`` up. If it lives, its next heartbeat brings it back."""
        node = self.get(peer)
        if node is None:
            return []
        del self.nodes[peer.node]
        self._turn()
        return [NodeLost(peer, node.role, reason)]

    def get(self, peer: Peer) -> Node | None:
        """The node in exactly that life, or None."""
        node = self.nodes.get(peer.node)
        return node if node is not None and node.hello.epoch == peer.epoch else None

    def of(self, role: str) -> Sequence[Node]:
        """Those that offer ``role`` to new work."""
        if role not in self._offering:
            nodes = self.nodes.values()
            self._offering[role] = tuple(n for n in nodes if n.role == role and not n.draining)
        return self._offering[role]

    @property
    def able(self) -> bool:
        """True if requests can be served: with a decode node, and a prefill node now or before unless none is
        expected. While that is away, decode nodes read prompts themselves.
        """
        return (self._had_prefill or self.colocated) and bool(self.of(DECODE))

    @property
    def max_model_len(self) -> int | None:
        """Tokens of prompt and output together that every node can hold; None while there are no nodes."""
        return min((node.hello.max_model_len for node in self.nodes.values()), default=None)

    def _turn(self) -> None:
        self.turns += 1
        self._offering.clear()

    def _welcome(self, session: int = 0, refused: str = "") -> Welcome:
        """``session`` 0 asks for a Hello."""
        return Welcome(self.router, self.epoch, refused, session)

    def _refusal(self, peer: Peer, hello: Hello) -> str:
        """Why ``hello`` cannot be taken in, or ""."""
        if not _NAME.fullmatch(hello.node) or len(hello.epoch) > 64:
            return "a node's name has up to 128 letters, digits, dots, dashes and underscores"
        if peer != (hello.node, hello.epoch):
            return f"{hello.node} speaks under the name of {clean(peer.node, 60)}"
        if hello.role not in (PREFILL, DECODE):
            return f"unknown role {clean(hello.role, 60)}"
        if hello.roles and (hello.role not in hello.roles or not {*hello.roles} <= {PREFILL, DECODE}):
            return f"its roles are not its role or not known: {clean(', '.join(hello.roles), 60)}"
        if DECODE in (hello.role, *hello.roles) and not hello.address:
            return "a decode node needs a handoff address"
        if misplaced := _misplaced(hello):
            return misplaced
        if not goes_with(hello.version, self.version):
            return f"version {clean(hello.version, 60)} does not go with {self.version}"
        if hello.epoch in self._replaced.get(hello.node, ()):
            return f"another process has taken the name {hello.node}"
        others = [node for node in self.nodes.values() if node.hello.node != hello.node]
        for other in others:
            if not goes_with(hello.version, other.hello.version):
                theirs, name = other.hello.version, other.hello.node
                return f"version {clean(hello.version, 60)} does not go with {theirs} of {name}"
        if others and (wrong := hello.layout.mismatch(others[0].hello.layout)):
            return f"KV layout differs from that of {others[0].hello.node}: {clean(wrong)}"
        return ""


def _misplaced(hello: Hello) -> str:
    try:
        place_of(hello.topology)
    except ConfigError as error:
        return str(error)
    return ""
