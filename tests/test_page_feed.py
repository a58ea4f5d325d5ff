from __future__ import annotations

import pytest

from pagewire import page_feed
from pagewire.engine.pages import PageLease, PagePool
from pagewire.layout import KVLayout
from pagewire.mailbox import TO_ROUTER
from pagewire.messages import PREFILL, Epoch, Hello, NodeId, PagesChanged, PagesWanted
from pagewire.page_chain import unpack
from pagewire.page_feed import TELL_EVERY_S, PageFeed

HELLO = Hello(
    NodeId("p"), Epoch("e"), PREFILL, "0.1.0", 1, KVLayout(1, 1, 8, "float32", "m"), "", "m", 64, 8, 4
)
ROUTER, OTHER = NodeId("r"), NodeId("s")


class World:
    """A pool of eight pages and what routers were told of it."""

    def __init__(self) -> None:
        self.pool = PagePool(8, 4)
        self.told: dict[str, list[PagesChanged]] = {ROUTER: [], OTHER: []}
        self.feed = PageFeed(HELLO, self.pool, self.send)

    def send(self, router: NodeId, message: object) -> None:
        found = TO_ROUTER.decode(TO_ROUTER.encode(message))
        self.told[router].append(found)

    def fill(self, *names: str) -> PageLease:
        lease = self.pool.lease()
        self.pool.grow(lease, len(names))
        for page, name in zip(lease.pages, names, strict=True):
            self.pool.label(page, name.encode().ljust(20))
        return lease

    def believed(self, router: NodeId) -> set[str]:
        """What the stream amounts to, which must have no gap."""
        known: set[str] = set()
        for number, message in enumerate(self.told[router]):
            assert message.sequence == number
            known |= {label.decode().strip() for label in unpack(message.added)}
            known -= {label.decode().strip() for label in unpack(message.evicted)}
        return known


@pytest.fixture
def world() -> World:
    return World()


def test_nobody_is_told_who_did_not_ask(world: World) -> None:
    world.fill("a")
    world.feed.tell(0.0, busy=False)
    assert world.told == {ROUTER: [], OTHER: []}


def test_a_stream_begins_with_all_that_is_there(world: World) -> None:
    world.fill("a", "b")
    world.feed.wanted(ROUTER, PagesWanted(7))
    assert world.believed(ROUTER) == {"a", "b"}
    assert [m.stream for m in world.told[ROUTER]] == [7]


def test_an_empty_cache_is_an_answer(world: World) -> None:
    world.feed.wanted(ROUTER, PagesWanted(1))
    assert world.believed(ROUTER) == set()
    assert len(world.told[ROUTER]) == 1


def test_what_comes_and_goes_is_told_to_all(world: World) -> None:
    lease = world.fill("a", "b")
    world.feed.wanted(ROUTER, PagesWanted(1))
    world.feed.wanted(OTHER, PagesWanted(1))
    world.pool.release(lease)
    world.fill("c", "d", "e", "f", "g", "h", "i")  # takes the pages of b
    world.feed.tell(1.0, busy=False)
    assert world.believed(ROUTER) == world.believed(OTHER) == {"a", "c", "d", "e", "f", "g", "h", "i"}


def test_a_large_cache_comes_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_feed, "CHUNK", 2)
    world.fill("a", "b", "c", "d", "e")
    world.feed.wanted(ROUTER, PagesWanted(1))
    assert len(world.told[ROUTER]) == 3
    assert world.believed(ROUTER) == {"a", "b", "c", "d", "e"}


def test_a_router_that_is_gone_is_told_nothing(world: World) -> None:
    world.feed.wanted(ROUTER, PagesWanted(1))
    world.feed.lost(ROUTER)
    world.fill("a")
    world.feed.tell(1.0, busy=False)
    assert len(world.told[ROUTER]) == 1


def test_between_steps_changes_wait_for_each_other(world: World) -> None:
    world.feed.wanted(ROUTER, PagesWanted(1))
    world.fill("a")
    world.feed.tell(10.0, busy=True)
    world.fill("b")
    world.feed.tell(10.0 + TELL_EVERY_S / 2, busy=True)
    assert world.believed(ROUTER) == {"a"}
    world.feed.tell(10.0 + TELL_EVERY_S, busy=True)
    assert world.believed(ROUTER) == {"a", "b"}
