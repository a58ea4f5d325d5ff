"""One HTTP request in the router's hands: a request for each of its prompts, and what they share.

Knows what was taken in and counted; knows no node and no reply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from router.admission import Ticket
from router.feed import Feed
from router.inflight import Inflight


class Generation:
    """One ``Inflight`` a prompt, and the feed and the ticket that they share. ``cancel_one`` ends one of
    them; ``clock`` gives seconds that never go back."""

    def __init__(
        self,
        feed: Feed,
        members: list[Inflight],
        ticket: Ticket,
        cancel_one: Callable[[Inflight], None],
        clock: Callable[[], float],
    ) -> None:
        self.feed = feed
        self.ticket = ticket
        self.members = members
        self.running = len(members)
        self.choices = sum(len(member.choices) for member in members)
        self._cancel_one = cancel_one
        self._clock = clock

    def cancel(self) -> None:
        """Nobody reads any more. Does nothing once all has ended."""
        for member in self.members:
            self._cancel_one(member)

    @property
    def wants_timing(self) -> bool:
        return self.members[0].wants_timing

    def timing(self) -> Any:
        """The ``timing`` of the reply: an object, or for several prompts a list of them."""
        found = [member.timing(self._clock()) for member in self.members]
        return found[0] if len(found) == 1 else found

    @property
    def prompt_tokens(self) -> int:
        """A prompt counts once, however many choices it has."""
        return sum(member.prompt_tokens for member in self.members)

    @property
    def completion_tokens(self) -> int:
        return sum(member.completion_tokens for member in self.members)

    @property
    def cached_tokens(self) -> int | None:
        """None: not every node has said."""
        cached = [member.cached_tokens for member in self.members]
        known = [count for count in cached if count is not None]
        return sum(known) if len(known) == len(cached) else None
