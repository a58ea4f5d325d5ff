"""Which attempts a node has begun: each is begun once, however often it is asked for. Knows names only."""

from __future__ import annotations

from collections import OrderedDict

from pagewire.messages import RequestId

REMEMBERED = 8192


class Attempts:
    """The last ``most`` attempts by request and number. The oldest are forgotten first."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._begun: OrderedDict[tuple[RequestId, int], None] = OrderedDict()

    def begin(self, request: RequestId, attempt: int) -> bool:
        """True the first time: a repeated message must not bring an attempt back that has ended."""
        if (request, attempt) in self._begun:
            return False
        self._begun[request, attempt] = None
        if len(self._begun) > self._most:
            self._begun.popitem(last=False)
        return True
