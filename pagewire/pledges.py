"""Pages that a node keeps free for prompts that it is about to read.

Only where one node has both roles: there prompts that land from elsewhere take pages of the same pool, and
two nodes that each wait for the other's pages could wait for ever. So every handoff takes its pages in the
order of the nodes' names, as locks are taken to avoid a deadlock: a prompt that goes to a node of a later
name has its own pages pledged before it asks there, and what lands leaves those alone; one that goes to a
node of an earlier name asks first. Knows names and counts.
"""

from __future__ import annotations

from pagewire.messages import RequestId


class Pledges:
    def __init__(self) -> None:
        self._pages: dict[tuple[RequestId, int], int] = {}
        self.total = 0

    def keep(self, key: tuple[RequestId, int], pages: int) -> None:
        assert key not in self._pages
        self._pages[key] = pages
        self.total += pages

    def release(self, key: tuple[RequestId, int]) -> None:
        """Idempotent."""
        self.total -= self._pages.pop(key, 0)
