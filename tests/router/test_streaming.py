"""What a stream says is the same, in the same order, whether it goes out at once or through the reader."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from pagewire.messages import RequestId, TokenItem
from pagewire.sampling import SamplingParams
from pagewire.text.tokenizer import Tokenizer
from router.asked import Asked
from router.completion_reply import CompletionReply
from router.feed import Delta, Feed
from router.generation import Generation
from router.replies import Envelope
from router.shown import Shown
from router.streaming import Streaming

ITEM = TokenItem(RequestId("r"), 0, 0, 0, 7)
PUTS = st.lists(
    st.tuples(
        st.integers(0, 1), st.text(max_size=3), st.booleans(), st.booleans()
    ),  # choice, text, whether the client has room for it, whether the reader gets a turn after it
    max_size=40,
)


def texts(sent: list[bytes]) -> dict[int, str]:
    """By choice."""
    found = {0: "", 1: ""}
    for line in b"".join(sent).split(b"\n\n"):
        if line:
            (choice,) = json.loads(line.removeprefix(b"data: "))["choices"]
            found[choice["index"]] += choice["text"]
    return found


@given(puts=PUTS)
@example(puts=[(0, "a", True, True)] * 8)  # all but the first go out at once
def test_every_text_goes_out_once_and_in_order(tokenizer: Tokenizer, puts: list[Any]) -> None:
    sent: list[bytes] = []
    at_once = 0
    room = True

    def write(piece: bytes) -> bool:
        nonlocal at_once
        if room:
            sent.append(piece)
            at_once += 1
        return room

    async def read(streaming: Streaming) -> None:
        async for piece in streaming.events():
            sent.append(piece)
            streaming.at_once(write)

    async def scene() -> None:
        nonlocal room
        feed = Feed(2)
        generation = SimpleNamespace(feed=feed, members=[], wants_timing=False, cancel=lambda: None)
        about = Envelope(id="x", model="m", created=0, vocabulary=tokenizer, prompts=[])
        asked = Asked(prompts=[], sampling=SamplingParams())
        streaming = Streaming(Shown(cast(Generation, generation), asked, CompletionReply(about)))
        reader = asyncio.create_task(read(streaming))
        for index, text, has_room, turn in puts:
            room = has_room
            feed.put(Delta(index, text, [ITEM], [0]))
            for _ in range(3 * turn):
                await asyncio.sleep(0)
        for index in (0, 1):
            feed.put(Delta(index, "!", finish="stop"))
        feed.close()
        await reader

    asyncio.run(scene())
    assert texts(sent) == {n: "".join(text for i, text, _, _ in puts if i == n) + "!" for n in (0, 1)}
    turns = [turn for _, _, _, turn in puts]
    if len(puts) > 3 and all(turns) and all(r for _, _, r, _ in puts):
        assert at_once >= sum(bool(text) for _, text, _, _ in puts) - 2
