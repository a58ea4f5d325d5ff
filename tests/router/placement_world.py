"""A fleet in a line, for tests of what is decided about it."""

from __future__ import annotations

from collections.abc import Mapping

from pagewire.layout import KVLayout
from pagewire.mailbox import Peer
from pagewire.messages import Beat, Epoch, Hello, Load, NodeId
from router.fleet import Fleet, Node

LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=8, dtype="float32", model="m")
PAGE, PAGES = 16, 64
MEASURED = {"read_step_ms": 5.0, "read_token_ms": 1.0, "read_context_ms": 0.1}


def peer(name: str) -> Peer:
    return Peer(NodeId(name), Epoch("e"))


def fleet(*names: str, pages: int = PAGES, at: Mapping[str, str] | None = None) -> Fleet:
    """The part before the dash is the role; ``at`` says where nodes are."""
    here = Fleet(NodeId("r"), Epoch("r"), "0.1.0")
    for name in names:
        role = name.partition("-")[0]
        address = f"shm://{name}" if role == "decode" else ""
        where = (at or {}).get(name, "")
        facts = (NodeId(name), Epoch("e"), role, "0.1.0", 1, LAYOUT, address, "m", 128, pages, PAGE)
        hi = Hello(*facts, topology=where)
        here.hello(0.0, peer(name), hi)
    return here


def report(here: Fleet, name: str, gauges: dict[str, float] | None = None, **counts: int) -> None:
    """A heartbeat of a node that is idle but for ``counts``."""
    node = here.nodes[NodeId(name)]
    idle = {"pages_total": node.hello.num_pages, "pages_free": node.hello.num_pages}
    here.beat(0.0, peer(name), Beat(NodeId(name), Epoch("e"), Load(**idle | counts, gauges=gauges or {})))


def node(here: Fleet, name: str) -> Node:
    return here.nodes[NodeId(name)]
