"""What the router decides where there are many nodes: the same as where it looked at all, or as good."""

from __future__ import annotations

import itertools
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from placement_world import MEASURED, fleet, peer, report

from pagewire.mailbox import Peer
from pagewire.messages import DECODE, PREFILL, Beat, Epoch, Failed, Load, NodeId
from pagewire.text.tokenizer import Tokenizer
from router.canary import NEVER, Canary
from router.fleet import Fleet
from router.held import Held, Level
from router.ledger import Ledger
from router.options import RouterOptions
from router.placement import Query, Rules, View, choose
from router.reach import Link, Reach
from router.room import FRESH_S, Capacities, capacity_of
from router.service import BEATS, SWEEP_S, Service
from router.standing import DRAWN, drawn

EVERY = 20.0


def names(role: str, count: int) -> list[str]:
    return [f"{role}-{number}" for number in range(count)]


LARGE = fleet(*names("prefill", 4 * DRAWN), *names("decode", 4 * DRAWN))


# --- who comes into question --------------------------------------------------------------------------------


@given(st.integers(1, DRAWN), st.text())
@settings(max_examples=20, deadline=None)
def test_all_of_few_come_into_question(count: int, request: str) -> None:
    here = fleet(*names("decode", count))
    assert drawn(here, DECODE, {}, request) == list(here.of(DECODE))


@given(st.text(), st.integers(0, 4 * DRAWN - 1))
@settings(max_examples=50, deadline=None)
def test_whoever_holds_most_always_comes_into_question(request: str, holder: int) -> None:
    held = {peer(f"prefill-{holder}"): 512} | {node.peer: 16 for node in LARGE.of(PREFILL)[:1]}
    found = {node.peer for node in drawn(LARGE, PREFILL, held, request)}
    assert peer(f"prefill-{holder}") in found
    assert DRAWN <= len(found) <= DRAWN + 2


def test_what_everybody_holds_favours_nobody() -> None:
    held = {node.peer: 16 for node in LARGE.nodes.values()}
    counts = [len(drawn(LARGE, PREFILL, held, str(number))) for number in range(50)]
    assert set(counts) == {DRAWN}


def test_requests_draw_from_all_nodes_and_each_always_the_same() -> None:
    seen = {node.peer for number in range(200) for node in drawn(LARGE, DECODE, {}, str(number))}
    assert len(seen) == 4 * DRAWN
    assert drawn(LARGE, DECODE, {}, "one") == drawn(LARGE, DECODE, {}, "one")


def test_in_a_large_fleet_too_what_failed_goes_last() -> None:
    here = fleet(*names("prefill", 2), *names("decode", 4 * DRAWN))
    for name in names("prefill", 2):
        report(here, name, MEASURED)
    view, tried = View(0.0, here, Ledger(), Reach()), set[Peer | Link]()
    for _ in range(8):
        pair = choose(view, Query([1, 2, 3], 20, request="r"), frozenset(tried), Rules())
        assert pair is not None
        assert pair.decode not in tried
        tried.add(pair.decode)


# --- who holds what -----------------------------------------------------------------------------------------


class Bits:
    def bit_of(self, of: Peer) -> int:
        return 1 << int(of.node)

    def peers_of(self, bits: int) -> itertools.chain[Peer]:
        return itertools.chain(Peer(NodeId(str(n)), Epoch("")) for n in range(8) if bits >> n & 1)


@given(st.dictionaries(st.integers(0, 7), st.integers(1, 4)))
def test_held_is_a_mapping_with_whoever_holds_most_first(tokens: dict[int, int]) -> None:
    levels = [Level(much, sum(1 << n for n in tokens if tokens[n] == much)) for much in {*tokens.values()}]
    plain = {Peer(NodeId(str(number)), Epoch("")): much for number, much in tokens.items()}
    held = Held(levels, Bits())
    assert held == plain
    assert len(held) == len(plain)
    assert list(held.values()) == sorted(plain.values(), reverse=True)
    everybody = [Peer(NodeId(str(number)), Epoch("")) for number in range(8)]
    assert [held.get(each, 0) for each in everybody] == [plain.get(each, 0) for each in everybody]


# --- what all can do together -------------------------------------------------------------------------------


def test_a_sum_over_all_nodes_is_made_anew_when_one_turns_or_time_passes() -> None:
    here = fleet("prefill-0", "prefill-1", "decode-0")
    sums = Capacities(here)
    first = sums.at(0.0)
    assert first == capacity_of(here)
    report(here, "prefill-0", MEASURED)
    assert sums.at(FRESH_S / 2) == first != capacity_of(here)
    assert sums.at(FRESH_S) == capacity_of(here)
    here.beat(0.0, peer("prefill-0"), Beat(NodeId("prefill-0"), Epoch("e"), Load(), draining=True))
    assert sums.at(FRESH_S) == capacity_of(here)
    here.drop(peer("decode-0"), "it is gone")
    assert sums.at(FRESH_S) is None


# --- heartbeats ---------------------------------------------------------------------------------------------


class Counting:
    """A mailbox that reaches everybody."""

    def __init__(self) -> None:
        self.sent: list[Peer] = []

    async def receive(self) -> tuple[Peer, object]:
        raise AssertionError("nobody listens")

    def send(self, to: Peer, message: object) -> bool:
        if isinstance(message, Beat):
            self.sent.append(to)
        return True


def test_heartbeats_to_many_nodes_go_a_few_at_a_time_and_each_gets_its_own(tokenizer: Tokenizer) -> None:
    mailbox, now = Counting(), [0.0]
    options = RouterOptions(model="demo", mailbox="inproc://x")
    service = Service(mailbox, options, tokenizer, lambda: now[0])
    service.fleet.nodes |= fleet(*names("prefill", 2 * BEATS), "decode-0").nodes
    counts = []
    for _ in range(10):
        now[0] += SWEEP_S
        before = len(mailbox.sent)
        service.sweep()
        counts.append(len(mailbox.sent) - before)
    assert counts == [BEATS, BEATS, 1, 0, 0, 0, 0, 0, 0, 0]
    assert len({*mailbox.sent}) == 2 * BEATS + 1
    for _ in range(4):
        now[0] += SWEEP_S
        service.sweep()
    assert len(mailbox.sent) == 2 * (2 * BEATS + 1)


# --- the canary ---------------------------------------------------------------------------------------------


def possible(here: Fleet) -> list[Link]:
    """All the ways that a request can go, written down."""
    decodes, prefills = ([node.peer for node in here.of(role)] for role in (DECODE, PREFILL))
    if prefills:
        return list(product(prefills, decodes))
    return [(each, each) for each in decodes] if here.able else []


def due(canary: Canary, now: float) -> Link | None:
    """The way to try, by looking at each."""
    busy = {each for trial in canary._trials.values() for each in trial.link}
    links = [link for link in possible(canary._fleet) if busy.isdisjoint(link)]
    if not links:
        return None
    tried = canary._tried
    stalest = min((each for link in links for each in link), key=lambda each: tried.get(each, NEVER))
    quiet = now - canary._proved_at >= EVERY
    if not quiet and now - tried.get(stalest, NEVER) < 3 * EVERY:
        return None
    with_it = [link for link in links if stalest in link]
    return min(
        with_it, key=lambda link: (tried.get(link, NEVER), max(tried.get(each, NEVER) for each in link))
    )


def trusted(canary: Canary, now: float) -> bool:
    """Whether some way is good, by looking at each."""

    def good(link: Link) -> bool:
        proof, failure = canary._proofs.get(link[1], NEVER), canary._failures.get(link)
        return now - proof < 3 * EVERY and (failure is None or failure.at < proof)

    return any(map(good, possible(canary._fleet)))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_canary_tries_the_way_that_it_would_find_by_looking_at_each(data: st.DataObject) -> None:
    prefills, decodes = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    here = fleet(*names("prefill", prefills), *names("decode", decodes))
    here.colocated = data.draw(st.booleans())
    ids = itertools.count()
    canary, now = Canary(here, EVERY, lambda: f"canary-{next(ids)}"), 1000.0
    for _ in range(12):
        now += data.draw(st.sampled_from([0.0, 1.0, 5.0, 30.0]))
        for trial in list(canary._trials.values()):
            outcome = data.draw(st.sampled_from(["wait", "pass", "fail"]))
            if outcome == "pass":
                del canary._trials[trial.request]
                canary.proved(now, trial.link)
            elif outcome == "fail":
                canary.failed(now, Failed(*trial.link[1], trial.request, 0, "peer_lost", "", True))
        if (nodes := list(here.nodes.values())) and data.draw(st.integers(0, 5)) == 0:
            here.drop(data.draw(st.sampled_from(nodes)).peer, "it is gone")
        for trial in list(canary._trials.values()):
            if any(here.get(each) is None for each in trial.link) or now - trial.since >= 2 * EVERY:
                canary.tick(now)
        wanted = due(canary, now)
        assert canary._due(now) == wanted
        assert trusted(canary, now) == (canary.doubt(now) == "")
        canary.tick(now)
