"""What a client sees of a generation: the reply's objects with what it asked for around them.

Knows deltas and replies; knows no event and no socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.asked import Asked
from router.feed import Delta
from router.generation import Generation
from router.replies import Reply, usage_of


@dataclass(slots=True, eq=False)
class Shown:
    generation: Generation
    asked: Asked
    reply: Reply

    def whole(self, choices: list[Delta]) -> dict[str, Any]:
        """The reply in one object; ``choices`` hold all of each."""
        self.learn_prompts()
        body = self.reply.frame([self.reply.whole(self.seen(choice)) for choice in choices], chunk=False)
        body |= self.reply.around()
        body["usage"] = self.usage()
        if self.generation.wants_timing:
            body["timing"] = self.generation.timing()
        return body

    def chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """A stream's object around one choice."""
        chunk = self.reply.frame([choice], chunk=True)
        if self.asked.usage:
            chunk["usage"] = self.usage() if self.asked.running_usage else None
        return chunk

    def last(self) -> dict[str, Any] | None:
        """The object that ends a stream, if there is anything to say."""
        if not self.asked.usage and not self.generation.wants_timing:
            return None
        chunk = self.reply.frame([], chunk=True)
        if self.asked.usage:
            chunk["usage"] = self.usage()
        if self.generation.wants_timing:
            chunk["timing"] = self.generation.timing()
        return chunk

    def seen(self, delta: Delta) -> Delta:
        return Delta(delta.index, finish=delta.finish) if self.asked.mute else delta

    def learn_prompts(self) -> None:
        """Give the reply those prompts' log-probabilities that have come."""
        if self.reply.wants_prompts:
            for number, member in enumerate(self.generation.members):
                if member.prompt_logprobs is not None:
                    self.reply.prompt_logprobs[number] = member.prompt_logprobs

    def usage(self) -> dict[str, Any]:
        """So far."""
        generation = self.generation
        spent = 0 if self.asked.mute else generation.completion_tokens
        return usage_of(
            generation.prompt_tokens, spent, generation.cached_tokens, self.reply.reasoning_tokens
        )
