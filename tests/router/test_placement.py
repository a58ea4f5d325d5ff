from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.layout import KVLayout
from pagewire.mailbox import Peer
from pagewire.messages import Beat, Epoch, Hello, Load, NodeId
from router.fleet import Fleet
from router.placement import Ledger, Pair, Query, choose

LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=8, dtype="float32", model="m")
NO_TRIES: frozenset[Peer] = frozenset()


def peer(name: str) -> Peer:
    return Peer(NodeId(name), Epoch("e"))


def fleet(*names: str) -> Fleet:
    here = Fleet(NodeId("r"), Epoch("r"), "0.1.0")
    for name in names:
        role = name.partition("-")[0]
        address = f"shm://{name}" if role == "decode" else ""
        hi = Hello(NodeId(name), Epoch("e"), role, "0.1.0", 1, LAYOUT, address, "m", 128, 64, 16)
        here.hello(0.0, peer(name), hi)
    return here


def load(here: Fleet, name: str, **counts: int) -> None:
    here.beat(0.0, peer(name), Beat(NodeId(name), Epoch("e"), Load(pages_total=64, **counts)))


def chosen(here: Fleet, ledger: Ledger | None = None, tried: frozenset[Peer] = NO_TRIES) -> Pair | None:
    return choose(here, ledger or Ledger(), Query([1, 2, 3], 20), tried)


def test_half_a_pair_is_none() -> None:
    assert chosen(fleet("prefill-0")) is None
    assert chosen(fleet("decode-0")) is None


def test_a_pair_has_the_decode_address() -> None:
    assert chosen(fleet("prefill-0", "decode-0")) == Pair(
        peer("prefill-0"), peer("decode-0"), "shm://decode-0"
    )


ALONE = Query([1, 2, 3], 20, alone=True)
DECODE_ONLY = Pair(peer("decode-0"), peer("decode-0"), "shm://decode-0")


def test_a_decode_node_alone_is_the_last_resort() -> None:
    assert choose(fleet("decode-0"), Ledger(), ALONE, NO_TRIES) == DECODE_ONLY
    pair = choose(fleet("prefill-0", "decode-0"), Ledger(), ALONE, NO_TRIES)
    assert pair == Pair(peer("prefill-0"), peer("decode-0"), "shm://decode-0")


def test_a_prefill_node_that_was_tried_is_no_better_than_none() -> None:
    here, tried = fleet("prefill-0", "decode-0"), frozenset({peer("prefill-0"), peer("decode-0")})
    assert choose(here, Ledger(), ALONE, tried) == DECODE_ONLY
    assert choose(here, Ledger(), Query([1, 2, 3], 20), tried) != DECODE_ONLY


def test_the_shorter_queue_prefills() -> None:
    here = fleet("prefill-0", "prefill-1", "decode-0")
    load(here, "prefill-0", queued_tokens=500, pages_free=64)
    assert chosen(here).prefill == peer("prefill-1")  # type: ignore[union-attr]


def test_the_emptier_pool_decodes() -> None:
    here = fleet("prefill-0", "decode-0", "decode-1")
    load(here, "decode-0", pages_free=10)
    load(here, "decode-1", pages_free=20)
    assert chosen(here).decode == peer("decode-1")  # type: ignore[union-attr]


def test_what_was_just_sent_counts_before_the_node_reports_it() -> None:
    here, ledger = fleet("prefill-0", "prefill-1", "decode-0", "decode-1"), Ledger()
    first = chosen(here, ledger)
    assert first is not None
    ledger.opened("r", 0, first, Query([1] * 50, 80))
    second = chosen(here, ledger)
    assert second is not None
    assert {first.prefill, first.decode}.isdisjoint(second[:2])


def test_tried_nodes_are_the_last_resort() -> None:
    here = fleet("prefill-0", "prefill-1", "decode-0")
    pair = chosen(here, tried=frozenset([peer("prefill-0"), peer("decode-0")]))
    assert pair is not None
    assert (pair.prefill, pair.decode) == (peer("prefill-1"), peer("decode-0"))


def test_silent_nodes_are_avoided() -> None:
    here = fleet("prefill-0", "prefill-1", "decode-0")
    here.heard(2.0, peer("prefill-1"))
    here.sweep(2.0)
    assert chosen(here).prefill == peer("prefill-1")  # type: ignore[union-attr]


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 99), st.booleans()), max_size=20))
@settings(deadline=None)
def test_the_ledger_ends_empty(sent: list[tuple[int, int, bool]]) -> None:
    ledger, pair = Ledger(), Pair(peer("prefill-0"), peer("decode-0"), "")
    for number, (prompt, more, _) in enumerate(sent):
        ledger.opened("r", number, pair, Query([0] * prompt, prompt + more))
    for number, (_, _, handed) in enumerate(sent):
        if handed:
            ledger.handed("r", number)
            ledger.handed("r", number)
        ledger.closed("r", number)
    assert ledger == Ledger()
