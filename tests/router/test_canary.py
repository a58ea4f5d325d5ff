from __future__ import annotations

import itertools

import pytest
from conftest import World, running
from router_stubs import LAYOUT, peer

from pagewire.mailbox import SPEAKS
from pagewire.messages import Cancel, Epoch, Failed, Hello, NodeId, PrefillRequest, TokenItem
from pagewire.text.tokenizer import Tokenizer
from router.canary import SPACING_S, Canary
from router.fleet import Fleet

EVERY = 20.0
FRESH = 3 * EVERY


class Yard:
    """A canary and the nodes that it knows. ``now`` is its time."""

    def __init__(self, *nodes: str, every: float = EVERY) -> None:
        self.fleet = Fleet(NodeId("r"), Epoch("e"), SPEAKS)
        ids = itertools.count()
        self.canary = Canary(self.fleet, every, lambda: f"canary-{next(ids)}")
        self.now = 1000.0
        for node in nodes:
            self.join(node)

    def join(self, name: str, session: int = 1) -> None:
        role = name.partition("-")[0]
        address = f"shm://{name}" if role == "decode" else ""
        hello = Hello(NodeId(name), Epoch("e"), role, SPEAKS, 1, LAYOUT, address, "m", 256, 99, 16, session)
        self.fleet.hello(self.now, peer(name), hello)

    def asks(self, after: float = 0.0) -> list[PrefillRequest]:
        """What is sent to prefill nodes ``after`` seconds."""
        self.now += after
        sent = self.canary.tick(self.now)
        return [send.message for send in sent if isinstance(send.message, PrefillRequest)]

    def passes(self, request: PrefillRequest) -> None:
        last = TokenItem(request.request, 0, 0, 1, 7, finish="length")
        self.canary.token(self.now, peer(request.decode.node), last)

    def fails(self, request: PrefillRequest, code: str = "peer_lost") -> None:
        node, epoch = request.decode.node, request.decode.epoch
        self.canary.failed(self.now, Failed(node, epoch, request.request, 0, code, "secret words", True))

    @property
    def doubt(self) -> str:
        return self.canary.doubt(self.now)


@pytest.fixture
def yard() -> Yard:
    return Yard("prefill-0", "decode-0")


def test_the_first_pair_is_tried_at_once(yard: Yard) -> None:
    assert yard.doubt == "no request has come through yet"
    (request,) = yard.asks()
    yard.passes(request)
    assert yard.doubt == ""


def test_nothing_is_tried_without_a_pair() -> None:
    assert Yard("decode-0").asks() == []
    assert Yard("prefill-0").asks() == []


def test_a_trial_crosses_the_wire_and_leaves_no_page_behind(yard: Yard) -> None:
    (request,) = yard.asks()
    assert request.sampling.max_tokens == 2
    assert 0 < len(request.tokens) + 2 < 16  # less than a page
    assert request.cache_salt == request.request


def test_the_first_token_proves_no_handoff(yard: Yard) -> None:
    (request,) = yard.asks()
    yard.canary.token(yard.now, peer("prefill-0"), TokenItem(request.request, 0, 0, 0, 7))
    yard.canary.token(yard.now, peer("prefill-0"), TokenItem(request.request, 0, 0, 1, 7, finish="length"))
    assert yard.doubt


def test_it_is_tried_again_when_nobody_has_proved_it(yard: Yard) -> None:
    yard.passes(yard.asks()[0])
    assert yard.asks(after=EVERY - 1) == []
    assert len(yard.asks(after=1)) == 1


def test_a_client_s_handoff_is_as_good(yard: Yard) -> None:
    yard.passes(yard.asks()[0])
    for _ in range(10):
        yard.canary.proved(yard.now, (peer("prefill-0"), peer("decode-0")))
        assert yard.asks(after=EVERY - 1) == []
    assert yard.doubt == ""


def test_silence_is_doubted_after_a_while(yard: Yard) -> None:
    yard.passes(yard.asks()[0])
    yard.asks(after=EVERY)  # is not answered
    yard.now += FRESH - EVERY - 1
    assert yard.doubt == ""
    yard.now += 1
    assert yard.doubt == "no request has come through for 60 s"


def test_a_trial_that_is_not_answered_ends(yard: Yard) -> None:
    (request,) = yard.asks()
    yard.now += 2 * EVERY
    sent = yard.canary.tick(yard.now)
    assert [(to.node, m) for to, m in sent if isinstance(m, Cancel)] == [
        ("prefill-0", Cancel(request.request, 0)),
        ("decode-0", Cancel(request.request, 0)),
    ]
    assert "no answer" in yard.doubt
    assert sum(isinstance(m, PrefillRequest) for _, m in sent) == 1  # and the next begins


def test_a_failure_is_doubted_at_once_and_tried_again_soon(yard: Yard) -> None:
    yard.passes(yard.asks()[0])
    (request,) = yard.asks(after=EVERY)
    yard.fails(request)
    assert yard.doubt == "a request of the router's own did not come through: peer_lost"
    (again,) = yard.asks(after=SPACING_S)
    yard.passes(again)
    assert yard.doubt == ""


def test_one_way_that_works_is_enough() -> None:
    yard = Yard("prefill-0", "decode-0", "decode-1")
    for _ in range(2):
        (request,) = yard.asks(after=SPACING_S)
        if request.decode.node == "decode-0":
            yard.fails(request)
        else:
            yard.passes(request)
    assert yard.doubt == ""


def test_every_node_is_proved_and_then_every_pair() -> None:
    yard = Yard("prefill-0", "prefill-1", "decode-0", "decode-1")
    pairs: list[tuple[str, str]] = []
    for _ in range(20):
        for to, message in yard.canary.tick(yard.now):
            assert isinstance(message, PrefillRequest)
            pairs.append((to.node, message.decode.node))
            yard.passes(message)
        yard.now += EVERY
    assert {node for pair in pairs[:2] for node in pair} == {"prefill-0", "prefill-1", "decode-0", "decode-1"}
    assert len(set(pairs[:6])) == 4


def test_nodes_that_clients_do_not_reach_are_tried_all_the_same() -> None:
    yard = Yard("prefill-0", "decode-0", "decode-1")
    tried: set[str] = set()
    for _ in range(int(2 * FRESH)):
        yard.canary.proved(yard.now, (peer("prefill-0"), peer("decode-0")))
        for request in yard.asks(after=1.0):
            tried.add(request.decode.node)
            yard.passes(request)
    assert tried == {"decode-1"}


def test_a_decode_node_alone_is_tried_by_itself(yard: Yard) -> None:
    yard.passes(yard.asks()[0])
    yard.fleet.drop(peer("prefill-0"), "gone")
    assert yard.doubt == ""
    (request,) = yard.asks(after=EVERY)
    yard.passes(request)
    yard.now += FRESH - 1
    assert yard.doubt == ""


def test_a_new_life_has_to_prove_itself(yard: Yard) -> None:
    yard.passes(yard.asks()[0])
    yard.fleet.drop(peer("decode-0"), "gone")
    hello = Hello(NodeId("decode-0"), Epoch("f"), "decode", SPEAKS, 1, LAYOUT, "shm://x", "m", 256, 99, 16)
    yard.fleet.hello(yard.now, peer("decode-0", "f"), hello)
    assert yard.doubt
    (request,) = yard.asks(after=SPACING_S)
    assert request.decode.epoch == "f"


def test_a_trial_on_a_node_that_dropped_all_it_had_ends(yard: Yard) -> None:
    (request,) = yard.asks()
    assert {send.peer.node for send in yard.canary.lost(peer("decode-0"))} == {"prefill-0", "decode-0"}
    assert not yard.canary.mine(request.request)
    assert len(yard.asks(after=SPACING_S)) == 1


def test_without_an_interval_nothing_is_tried_or_doubted() -> None:
    yard = Yard("prefill-0", "decode-0", every=0.0)
    assert yard.asks(after=1000) == []
    assert yard.doubt == ""


# --- in the router ------------------------------------------------------------------------------------------


async def ready(world: World) -> int:
    return (await world.http.get("/ready")).status_code


async def test_ready_waits_for_the_first_proof(tokenizer: Tokenizer) -> None:
    world = World(tokenizer, canary_s=EVERY)
    world.cluster.hold_at = 1
    async with running(world, "prefill-0", "decode-0"):
        reply = await world.http.get("/ready")
        assert reply.status_code == 503
        assert "come through" in reply.json()["error"]["message"]
        world.cluster.release()
        await world.until(lambda: world.service.ready)
        assert await ready(world) == 200


async def test_nodes_that_say_they_live_and_serve_nothing_are_found(tokenizer: Tokenizer) -> None:
    world = World(tokenizer, canary_s=0.1)
    async with running(world, "prefill-0", "decode-0"):
        await world.until(lambda: world.service.ready)
        world.cluster.hold_at = 0  # beats go on
        await world.until(lambda: not world.service.ready)
        assert (await world.http.get("/live")).status_code == 200
        assert await ready(world) == 503
        world.cluster.release()
        await world.until(lambda: world.service.ready)


async def test_its_own_requests_are_nobody_s_in_the_metrics(tokenizer: Tokenizer) -> None:
    async with running(World(tokenizer, canary_s=EVERY), "prefill-0", "decode-0") as world:
        await world.until(lambda: world.service.ready)
        page = (await world.http.get("/metrics")).text
    assert len(world.cluster.requests()) == 1
    for name in ("generation_tokens_total", "prompt_tokens_total", "late_tokens_total"):
        assert not [
            line for line in page.splitlines() if line.startswith(f"pagewire:{name} ") and "0.0" not in line
        ]


async def test_a_client_s_request_is_a_proof(world: World) -> None:
    assert world.service.canary.age(world.service.clock()) is None
    await world.chat()
    age = world.service.canary.age(world.service.clock())
    assert age is not None
    assert age < 5
