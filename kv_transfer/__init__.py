"""The handoff: KV bytes of a token range go from the node that computed them to the node that will use them.

Knows slots, bytes, peers and time as given to it; knows no sequence, no engine and no request. Both ends are
driven by their node's loop, on its thread: nothing here starts work by itself.

    sender                                    receiver
      reserve ------- RESERVE ----------------> Reserved
      Granted <------ GRANT ------------------- grant           (or REFUSE / refuse)
      publish ------- DATA, DATA, ... --------> pages
              <------ CREDIT, ... -------------
      commit  ------- COMMIT -----------------> Landed
      Done    <------ ADOPTED ----------------- adopt
      abort   ------- ABORT ------------------> Dropped         (or the other way: Lost)
"""

from __future__ import annotations

from kv_transfer.events import (
    Done,
    Dropped,
    Granted,
    Landed,
    Lost,
    ReceiverEvent,
    Refused,
    Reserved,
    SenderEvent,
    TransferStats,
)
from kv_transfer.limits import Limits, Timeouts
from kv_transfer.metrics import ReceiverCounts, SenderCounts, gauges
from kv_transfer.receiver import Receiver
from kv_transfer.sender import Sender
from kv_transfer.store import PageSink, PageSource
from kv_transfer.transports import check_nixl, open_receiver, open_sender
from kv_transfer.wire import TransferId

__all__ = [
    "Done",
    "Dropped",
    "Granted",
    "Landed",
    "Limits",
    "Lost",
    "PageSink",
    "PageSource",
    "Receiver",
    "ReceiverCounts",
    "ReceiverEvent",
    "Refused",
    "Reserved",
    "Sender",
    "SenderCounts",
    "SenderEvent",
    "Timeouts",
    "TransferId",
    "TransferStats",
    "check_nixl",
    "gauges",
    "open_receiver",
    "open_sender",
]
