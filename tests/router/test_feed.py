from __future__ import annotations

import asyncio

import pytest

from pagewire.errors import RequestFailed
from pagewire.messages import RequestId, TokenItem
from router.feed import AT_ONCE, MAX_UNREAD_BYTES, MAX_UNREAD_EVENTS, Delta, Feed, SlowReader

ITEM = TokenItem(RequestId("r"), 0, 0, 0, 7)


async def test_deltas_of_a_choice_merge_until_they_are_read() -> None:
    feed = Feed(1)
    feed.put(Delta(0, "a", [ITEM]))
    feed.put(Delta(0, "b", [ITEM], finish="stop"))
    assert await feed.take() == [Delta(0, "ab", [ITEM, ITEM], finish="stop")]


async def test_choices_stay_apart() -> None:
    feed = Feed(2)
    feed.put(Delta(0, "a"))
    feed.put(Delta(1, "b"))
    assert [delta.text for delta in await feed.take()] == ["a", "b"]


async def test_what_is_unread_outlives_the_end() -> None:
    feed = Feed(1)
    feed.put(Delta(0, "a"))
    feed.close(RequestFailed("x"))
    assert [delta.text for delta in await feed.take()] == ["a"]
    with pytest.raises(RequestFailed):
        await feed.take()


async def test_a_clean_end_is_an_empty_list() -> None:
    feed = Feed(1)
    feed.close()
    assert await feed.take() == []


async def test_the_first_close_counts() -> None:
    feed = Feed(1)
    feed.close()
    feed.close(RequestFailed("x"))
    assert await feed.take() == []


async def test_too_many_events_cut_the_reader_off() -> None:
    feed = Feed(1)
    taken = [feed.put(Delta(0, "a")) for _ in range(MAX_UNREAD_EVENTS + 1)]
    assert taken.count(False) == 1
    assert not taken[-1]
    with pytest.raises(SlowReader):
        await feed.take()


async def test_too_many_bytes_cut_the_reader_off() -> None:
    feed = Feed(1)
    assert not feed.put(Delta(0, "a" * MAX_UNREAD_BYTES))


async def test_a_reader_that_collects_all_is_not_cut_off() -> None:
    feed = Feed(1, unlimited=True)
    assert all(feed.put(Delta(0, "a")) for _ in range(2 * MAX_UNREAD_EVENTS))


async def test_a_tap_takes_what_comes_while_the_reader_waits_and_nothing_is_before_it() -> None:
    feed, tapped = Feed(1), list[str]()

    def tap(delta: Delta) -> bool:
        tapped.append(delta.text)
        return not delta.finish

    feed.tap = tap
    feed.put(Delta(0, "a"))
    assert [delta.text for delta in await feed.take()] == ["a"]
    waiting = asyncio.ensure_future(feed.take())
    await asyncio.sleep(0)
    feed.put(Delta(0, "b"))
    feed.put(Delta(0, "c"))
    feed.put(Delta(0, "d", finish="stop"))  # not taken: the reader wakes, and what follows is behind it
    feed.put(Delta(0, "e", finish="stop"))
    assert [delta.text for delta in await waiting] == ["de"]
    assert tapped == ["b", "c", "d"]


async def test_who_is_behind_takes_a_few_at_a_time_and_lets_others_go_first() -> None:
    feed, turns = Feed(1), 0
    for _ in range(2 * AT_ONCE + 1):
        feed.put(Delta(0, "a"))
    feed.close()

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    busy = asyncio.create_task(others())
    taken = []
    while deltas := await feed.take():
        taken.append(len("".join(delta.text for delta in deltas)))
    busy.cancel()
    assert taken == [AT_ONCE, AT_ONCE, 1]
    assert turns >= 1
