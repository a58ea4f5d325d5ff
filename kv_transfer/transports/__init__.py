"""Wires for the handoff, chosen by the scheme of an address: ``tcp://host:port``, ``nixl://host:port``,
``shm:///path`` or ``shm://*``.
"""

from __future__ import annotations

from kv_transfer.transports.base import Arrived, Dialer, Listener, Peer, Transport
from kv_transfer.transports.choose import open_receiver, open_sender
from kv_transfer.transports.nixl import check_nixl

__all__ = ["Arrived", "Dialer", "Listener", "Peer", "Transport", "check_nixl", "open_receiver", "open_sender"]
