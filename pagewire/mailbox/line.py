"""One router as a node sees it: whether it has taken the node in, and when to say Hello to it.

Pure: what happened and ``now`` in, what is due out. Knows Welcomes and seconds; knows no socket, no clock and
no other router.
"""

from __future__ import annotations

from dataclasses import dataclass

from pagewire.messages import NodeId, Welcome

BEAT_EVERY_S = 0.5
LOST_AFTER_S = 3.0  # the router gives a silent node up
GIVEN_UP_AFTER_S = 2.75  # a node a silent router: what it does for a dead one is to end within LOST_AFTER_S
ASK_AGAIN_S = 60.0  # a router that has refused us, while the connection stands
TELL_AGAIN_S = 60.0  # that it has refused us, where the reason is the same


@dataclass(slots=True)
class Line:
    """``session`` rises whenever something may have been lost on the way: the router then gives up what it
    believes to be here, as we do. Times are in the caller's seconds.
    """

    session: int = 1
    router: NodeId | None = None  # None until it has welcomed us
    joined: bool = False
    heard: float = 0.0
    refused: str = ""  # why it does not take us in, as far as we know
    greeting: bool = False  # a Hello is due as soon as the connection takes one
    _ask_at: float = 0.0
    _told: tuple[str, float] | None = None

    def connected(self) -> None:
        """There is a connection, perhaps to another process than before."""
        self.greeting = not self.joined

    def cut(self) -> NodeId | None:
        """The connection broke. As ``lost``; and whoever answers next may not refuse us."""
        self.refused, self.greeting = "", False
        return self.lost()

    def lost(self) -> NodeId | None:
        """What was under way is gone, whichever way it went. The router that was joined."""
        self.session += 1
        router = self.router if self.joined else None
        self.joined = False
        return router

    def silent(self, now: float) -> bool:
        return self.joined and now - self.heard >= GIVEN_UP_AFTER_S

    def wants_in(self, now: float) -> bool:
        """At a heartbeat: whether it is time for a Hello. A router that has refused us is left alone for a
        while: its reason, another node perhaps, may have gone then.
        """
        if self.joined or (self.refused and now < self._ask_at):
            return False
        self._ask_at = now + ASK_AGAIN_S
        return True

    def welcomed(self, message: Welcome) -> bool:
        """True if that makes us joined. An answer to an older Hello makes nothing."""
        if message.session != self.session:
            return False
        self.router, self.joined, self.refused = message.router, True, ""
        return True

    def turned_down(self, now: float, reason: str) -> bool:
        """It does not take us in. True if that is worth a line in the log."""
        self.refused, self._ask_at = reason, now + ASK_AGAIN_S
        if self._told is not None and self._told[0] == reason and now - self._told[1] < TELL_AGAIN_S:
            return False
        self._told = reason, now
        return True
