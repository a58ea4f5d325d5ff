"""Which messages go which way between router and nodes, and what is read of them whatever the version.

Knows messages and versions; knows no socket.
"""

from __future__ import annotations

import contextlib

from pagewire import __version__
from pagewire import messages as m
from pagewire.audit import clean
from pagewire.codec import Codec, unseal
from pagewire.errors import RemoteProtocolError
from pagewire.messages import Epoch, NodeId, Welcome
from pagewire.schema import fingerprint
from pagewire.versions import LEVEL, goes_with

TO_ROUTER = Codec(m.Hello, m.Beat, m.Tokens, m.Failed, m.PagesChanged)
TO_NODE = Codec(m.Welcome, m.Beat, m.PrefillRequest, m.Cancel, m.PagesWanted, m.TakeRole)
NODE_TO_NODE = Codec(m.Handoff, m.FirstTokens)  # these ride inside kv_transfer's frames

SPEAKS = f"{__version__}+{fingerprint(TO_ROUTER, TO_NODE, NODE_TO_NODE)}"  # what Hello calls its version


def foreign(data: bytes) -> str | None:
    """The version in a Hello that does not go with ours."""
    with contextlib.suppress(RemoteProtocolError):
        match unseal(data):
            case [*_, "Hello", {"version": str(version)}] if not goes_with(version, SPEAKS):
                return version
    return None


def refusal(data: bytes) -> Welcome | None:
    """The Welcome of a router whose version does not go with ours, and that says so."""
    with contextlib.suppress(RemoteProtocolError):
        match unseal(data):
            case [int(level), "Welcome", {"refused": str(reason)}] if abs(level - LEVEL) > 1 and reason:
                return Welcome(NodeId(""), Epoch(""), refused=clean(reason))
    return None
