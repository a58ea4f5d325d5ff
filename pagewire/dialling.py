"""What becomes of a node's tries to reach one router, and when that is worth a line in the log.

Pure: ZeroMQ's monitor events and ``now`` in, warnings out. Knows an address; knows no socket and no secret.
"""

from __future__ import annotations

from dataclasses import dataclass

import zmq

TRIES = 3  # connections in a row that come to nothing, before it is said
PATIENCE_S = 5.0  # that a router may be away before it is said: it may be starting
AGAIN_S = 60.0  # between two lines of the same kind
ABANDONED_S = 1.0  # after a connection has ended; ZeroMQ says at once that it will try again, if it will

EVENTS = zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_SUCCEEDED


@dataclass(slots=True)
class Dialling:
    """Tries to reach ``address``. Times are in the caller's seconds."""

    address: str
    up: bool = False
    _turned_away: int = 0  # connections in a row that ended before the handshake did
    _away_since: float | None = None  # nothing has taken a connection since
    _ended_at: float | None = None  # a connection has ended, and no other try was announced yet
    _told_turned: float | None = None
    _told_away: float | None = None

    def saw(self, now: float, event: int) -> str | None:
        """One of ``EVENTS`` happened. The warning that is due, if one is."""
        match event:
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.up, self._turned_away, self._away_since, self._ended_at = True, 0, None, None
            case zmq.EVENT_CONNECT_RETRIED:
                self._ended_at = None
            case zmq.EVENT_DISCONNECTED:
                self._turned_away = 0 if self.up else self._turned_away + 1
                self.up, self._away_since, self._ended_at = False, None, now
                return self._turned(now)
            case zmq.EVENT_CLOSED:
                self._turned_away, self._away_since = 0, now if self._away_since is None else self._away_since
                return self._away(now, self._away_since)
        return None

    def abandoned(self, now: float) -> bool:
        """True if ZeroMQ does not try again by itself: it gives up where the other side speaks another
        protocol, although that may be another program for a moment only. Dial anew then.
        """
        if self._ended_at is None or now - self._ended_at < ABANDONED_S:
            return False
        self._ended_at = None
        return True

    def _turned(self, now: float) -> str | None:
        if self._turned_away < TRIES or not _due(now, self._told_turned):
            return None
        self._told_turned = now
        return (
            f"{self.address} takes connections but does not prove to be a router of this cluster: "
            "its secret file is not the same as ours, or something else listens there"
        )

    def _away(self, now: float, since: float) -> str | None:
        if now - since < PATIENCE_S or not _due(now, self._told_away):
            return None
        self._told_away = now
        return (
            f"no router can be reached at {self.address} for {now - since:.0f} s: "
            "it does not run, the address is wrong, or a firewall is between"
        )


def _due(now: float, told: float | None) -> bool:
    return told is None or now - told >= AGAIN_S
