"""Messages between the router and its nodes: who is connected, and ordered delivery while both live.

Nodes dial routers (ZeroMQ DEALER to ROUTER), so that only the router needs an address. Knows peers, bytes and
heartbeats; knows no request. Nothing is delivered twice; what was on its way when a process died is lost, and
the other side is told: the router by a missing heartbeat, the node by a RouterLost.

    words        which messages go which way, and what is read whatever the version
    sockets      limits of the sockets, names of peers
    router_end   RouterMailbox
    line         one router as a node sees it; pure
    wire, wires  the sockets of a line, and of all lines of a node
    node_thread  the thread of a node on which its lines live
    node_end     NodeMailbox
"""

from pagewire.mailbox.line import BEAT_EVERY_S, GIVEN_UP_AFTER_S, LOST_AFTER_S
from pagewire.mailbox.node_end import NodeMailbox, RouterLost
from pagewire.mailbox.router_end import RouterMailbox
from pagewire.mailbox.sockets import Peer
from pagewire.mailbox.words import NODE_TO_NODE, SPEAKS, TO_NODE, TO_ROUTER

__all__ = [
    "BEAT_EVERY_S",
    "GIVEN_UP_AFTER_S",
    "LOST_AFTER_S",
    "NODE_TO_NODE",
    "SPEAKS",
    "TO_NODE",
    "TO_ROUTER",
    "NodeMailbox",
    "Peer",
    "RouterLost",
    "RouterMailbox",
]
