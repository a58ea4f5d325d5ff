"""Streamed replies: what a client reads of a generation, chunk by chunk, as soon as there is something new.

Knows deltas, replies and server-sent events; knows no socket. Chunks with nothing new but a text, which are
nearly all, go out as soon as their token is taken in, if the client has taken what was before; a task is
woken only for the others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from router.feed import Delta
from router.shown import Shown
from router.sse import TextEvent, Write, event


class Streaming:
    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._feed = shown.generation.feed
        self._texts: dict[int, TextEvent | None] = {}  # by choices whose stream has begun
        self._write: Write | None = None

    async def events(self) -> AsyncGenerator[bytes, None]:
        """All that does not go out at once. The generation ends with it."""
        try:
            while deltas := await self._feed.take():
                self._shown.learn_prompts()
                if events := [told for delta in deltas for told in self._told(delta)]:
                    yield b"".join(events)
            if (last := self._shown.last()) is not None:
                yield event(last)
        finally:
            self._feed.tap = None
            self._shown.generation.cancel()

    def at_once(self, write: Write) -> None:
        """``write`` sends an event without waiting, or says that it cannot."""
        self._write = write
        self._feed.tap = self._tap

    def _tap(self, delta: Delta) -> bool:
        """True if ``delta`` was told. Asked only while there is nothing before it."""
        told = self._texts.get(delta.index)
        if told is None or delta.finish:
            return False
        assert self._write is not None
        return not delta.text or self._write(told(delta.text))

    def _told(self, delta: Delta) -> Iterator[bytes]:
        """The chunks of one delta. Most have nothing new but a text."""
        index, reply = delta.index, self._shown.reply
        if index not in self._texts:
            self._texts[index] = self._text_event(index)
            for choice in reply.opening(index):
                yield event(self._shown.chunk(choice))
        elif (text_event := self._texts[index]) is not None and not delta.finish:
            if delta.text:
                yield text_event(delta.text)
            return
        if (choice_seen := reply.chunk(self._shown.seen(delta))) is not None:
            yield event(self._shown.chunk(choice_seen))

    def _text_event(self, index: int) -> TextEvent | None:
        """None where chunks say more than a text."""
        asked, reply = self._shown.asked, self._shown.reply
        if not reply.only_text or asked.running_usage or asked.mute:
            return None

        def example(text: str) -> dict[str, Any]:
            choice = reply.chunk(Delta(index, text))
            assert choice is not None
            return self._shown.chunk(choice)

        return TextEvent(example)
