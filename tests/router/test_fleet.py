from __future__ import annotations

from dataclasses import replace

import pytest

from pagewire.layout import KVLayout
from pagewire.mailbox import Peer
from pagewire.messages import Beat, Epoch, Hello, Load, NodeId, Welcome
from router.fleet import Change, Fleet, NodeJoined, NodeLost, NodeTurned

LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=8, dtype="float32", model="m")


def fleet() -> Fleet:
    return Fleet(NodeId("router-0"), Epoch("r"), "0.1.0")


def hello(node: str = "decode-0", epoch: str = "a", **changes: object) -> Hello:
    made = Hello(
        node=NodeId(node),
        epoch=Epoch(epoch),
        role=node.partition("-")[0],
        version="0.1.0",
        pid=1,
        layout=LAYOUT,
        address="shm://x" if node.startswith("decode") else "",
        served_model="m",
        max_model_len=128,
        num_pages=64,
        page_size=16,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def join(fleet: Fleet, now: float, hi: Hello) -> tuple[Welcome | None, list[Change]]:
    return fleet.hello(now, Peer(hi.node, hi.epoch), hi)


def silence(fleet: Fleet, start: float, end: float) -> list[Change]:
    """Sweep every tenth of a second; gives what the last sweep found."""
    tenths = range(int(start * 10), int(end * 10) + 1)
    return [fleet.sweep(tenth / 10) for tenth in tenths][-1]


def test_a_node_joins() -> None:
    answer, changes = join(fleet(), 0.0, hello())
    assert answer == Welcome(NodeId("router-0"), Epoch("r"), session=1)
    assert changes == [NodeJoined(Peer(NodeId("decode-0"), Epoch("a")))]


def test_a_repeated_hello_is_answered_and_changes_nothing() -> None:
    here = fleet()
    join(here, 0.0, hello())
    for now in (0.1, 1.0):
        assert join(here, now, hello()) == (Welcome(NodeId("router-0"), Epoch("r"), session=1), [])


def test_a_node_that_lost_us_has_lost_its_requests() -> None:
    here = fleet()
    join(here, 0.0, hello())
    answer, changes = join(here, 1.0, hello(session=2))
    assert answer == Welcome(NodeId("router-0"), Epoch("r"), session=2)
    assert [type(change) for change in changes] == [NodeLost, NodeJoined]
    assert changes[0].peer == changes[1].peer


def test_a_hello_of_an_earlier_session_is_no_news() -> None:
    here = fleet()
    join(here, 0.0, hello(session=2))
    assert join(here, 0.1, hello(session=1)) == (None, [])


def test_a_new_epoch_ends_the_old_life_at_once() -> None:
    here = fleet()
    join(here, 0.0, hello(epoch="a"))
    _, changes = join(here, 0.1, hello(epoch="b"))
    assert [type(change) for change in changes] == [NodeLost, NodeJoined]
    assert changes[0].peer.epoch == "a"


def test_a_replaced_process_cannot_come_back() -> None:
    here = fleet()
    join(here, 0.0, hello(epoch="a"))
    join(here, 0.1, hello(epoch="b"))
    answer, changes = join(here, 9.0, hello(epoch="a"))
    assert answer is not None
    assert answer.refused
    assert not changes
    late = Beat(NodeId("decode-0"), Epoch("a"))
    assert here.beat(9.0, Peer(NodeId("decode-0"), Epoch("a")), late) == (None, [])


def test_a_silent_node_is_suspect_then_lost() -> None:
    here = fleet()
    join(here, 0.0, hello())
    assert silence(here, 0.0, 1.6) == []
    assert here.nodes[NodeId("decode-0")].suspect
    assert [type(change) for change in silence(here, 0.0, 3.0)] == [NodeLost]
    assert not here.nodes


def test_our_own_sleep_is_not_held_against_a_node() -> None:
    here = fleet()
    join(here, 0.0, hello())
    here.sweep(0.1)
    assert here.sweep(60.0) == []
    silence(here, 60.1, 62.8)
    assert here.nodes
    silence(here, 62.9, 63.0)
    assert not here.nodes


def test_a_beat_clears_suspicion_and_brings_load() -> None:
    here = fleet()
    join(here, 0.0, hello())
    silence(here, 0.0, 1.6)
    here.beat(
        1.7, Peer(NodeId("decode-0"), Epoch("a")), Beat(NodeId("decode-0"), Epoch("a"), Load(running=3))
    )
    node = here.nodes[NodeId("decode-0")]
    assert not node.suspect
    assert node.load.running == 3


def test_a_beat_of_an_unknown_life_asks_for_hello() -> None:
    answer = fleet().beat(0.0, Peer(NodeId("x"), Epoch("a")), Beat(NodeId("x"), Epoch("a")))
    assert answer == (Welcome(NodeId("router-0"), Epoch("r")), [])


def test_a_node_that_was_silent_may_come_back_in_the_same_life() -> None:
    here = fleet()
    join(here, 0.0, hello())
    silence(here, 0.0, 3.0)
    answer, changes = join(here, 4.0, hello())
    assert answer is not None
    assert not answer.refused
    assert len(changes) == 1


def test_another_layout_is_refused_by_name() -> None:
    here = fleet()
    join(here, 0.0, hello())
    answer, _ = join(here, 0.0, hello("prefill-0", layout=replace(LAYOUT, head_dim=16)))
    assert answer is not None
    assert "head_dim 16 != 8" in answer.refused


def test_a_restart_alone_may_bring_another_layout() -> None:
    here = fleet()
    join(here, 0.0, hello())
    answer, _ = join(here, 1.0, hello(epoch="b", layout=replace(LAYOUT, head_dim=16)))
    assert answer is not None
    assert not answer.refused


@pytest.mark.parametrize("version", ["0.1.9", "0.2.0", "0.0.3"])
def test_a_neighbouring_minor_version_is_welcome(version: str) -> None:
    assert not join(fleet(), 0.0, hello(version=version))[0].refused  # type: ignore[union-attr]


@pytest.mark.parametrize("version", ["1.1.0", "0.3.0", "x", "", "9" * 99 + ".1.0", "1" * 5000])
def test_other_versions_are_refused_by_name(version: str) -> None:
    refused = join(fleet(), 0.0, hello(version=version))[0].refused  # type: ignore[union-attr]
    assert refused.startswith("version ")
    assert refused.endswith(" does not go with 0.1.0")
    assert len(refused) < 120


def refusal(ours: Fleet, hi: Hello) -> str:
    answer, _ = join(ours, 0.0, hi)
    assert answer is not None
    return answer.refused


def test_other_messages_are_refused_within_one_minor_version() -> None:
    ours = Fleet(NodeId("router"), Epoch("r"), "0.1.0+aaaaaaaa")
    assert refusal(ours, hello(version="0.1.0+bbbbbbbb"))
    assert refusal(ours, hello(version="0.1.1+bbbbbbbb"))
    assert not refusal(ours, hello("decode-0", version="0.1.1+aaaaaaaa"))
    assert not refusal(ours, hello("decode-1", version="0.2.0+bbbbbbbb"))


def test_nodes_on_either_side_of_ours_do_not_meet() -> None:
    ours = fleet()
    assert not refusal(ours, hello("decode-0", version="0.0.4"))
    assert not refusal(ours, hello("decode-1", version="0.1.0"))
    named = refusal(ours, hello("prefill-0", version="0.2.0"))
    assert named == "version 0.2.0 does not go with 0.0.4 of decode-0"
    ours.drop(Peer(NodeId("decode-0"), Epoch("a")), "x")
    assert not refusal(ours, hello("prefill-0", version="0.2.0"))


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 129, "a/b"])
def test_a_name_that_would_not_stay_on_its_line_is_refused(name: str) -> None:
    assert "name" in join(fleet(), 0.0, hello(name))[0].refused  # type: ignore[union-attr]


@pytest.mark.parametrize("where", ["a//b", "/a", "a/", "a b", "x" * 64, "/".join("abcdefghi"), "a\nb"])
def test_a_topology_that_is_none_is_refused(where: str) -> None:
    assert "topology" in refusal(fleet(), hello(topology=where))


def test_strangers_leave_nothing_behind() -> None:
    ours = fleet()
    for number in range(100):
        peer = Peer(NodeId(f"n{number}"), Epoch("e"))
        ours.beat(0.0, peer, Beat(*peer))
        join(ours, 0.0, hello(f"n{number}", version="9.9.9"))
    assert not ours._replaced
    assert not ours.nodes


def test_a_false_name_is_refused() -> None:
    answer, changes = fleet().hello(0.0, Peer(NodeId("other"), Epoch("a")), hello())
    assert answer is not None
    assert answer.refused
    assert not changes


def test_a_node_is_silent_once_it_has_missed_a_beat() -> None:
    here = fleet()
    join(here, 0.0, hello())
    peer = Peer(NodeId("decode-0"), Epoch("a"))
    assert not here.silent(0.4, peer)
    assert here.silent(0.8, peer)


def test_a_dropped_node_is_gone_in_that_life_only() -> None:
    here = fleet()
    join(here, 0.0, hello())
    assert here.drop(Peer(NodeId("decode-0"), Epoch("b")), "x") == []
    assert len(here.drop(Peer(NodeId("decode-0"), Epoch("a")), "x")) == 1
    assert not here.nodes


def test_the_shortest_context_counts() -> None:
    here = fleet()
    assert here.max_model_len is None
    join(here, 0.0, hello("decode-0", max_model_len=128))
    join(here, 0.0, hello("prefill-0", max_model_len=96))
    assert here.max_model_len == 96


def test_it_is_able_once_there_was_a_pair_and_as_long_as_somebody_decodes() -> None:
    here = fleet()
    join(here, 0.0, hello("decode-0"))
    assert not here.able
    join(here, 0.0, hello("prefill-0"))
    assert here.able
    here.drop(Peer(NodeId("prefill-0"), Epoch("a")), "x")
    assert here.able
    here.drop(Peer(NodeId("decode-0"), Epoch("a")), "x")
    assert not here.able


def both(name: str = "worker-0", role: str = "decode") -> Hello:
    return hello(name, role=role, roles=["prefill", "decode"], address="shm://x")


def beat_of(node: str, **changes: object) -> tuple[Peer, Beat]:
    peer = Peer(NodeId(node), Epoch("a"))
    return peer, Beat(*peer, **changes)  # type: ignore[arg-type]


def test_a_node_with_both_roles_says_which_it_offers() -> None:
    here = fleet()
    join(here, 0.0, both())
    peer, beat = beat_of("worker-0", role="prefill")
    assert here.beat(0.1, peer, beat) == (None, [NodeTurned(peer, "prefill", False)])
    assert [node.peer for node in here.of("prefill")] == [peer]
    assert not list(here.of("decode"))
    assert here.beat(0.2, peer, beat) == (None, [])


def test_a_node_with_one_role_cannot_offer_another() -> None:
    here = fleet()
    join(here, 0.0, hello())
    assert here.beat(0.1, *beat_of("decode-0", role="prefill")) == (None, [])
    assert here.nodes[NodeId("decode-0")].role == "decode"


def test_a_node_that_drains_gets_nothing_new_and_is_still_there() -> None:
    here = fleet()
    join(here, 0.0, hello("prefill-0"))
    join(here, 0.0, hello())
    peer, beat = beat_of("decode-0", draining=True)
    assert here.beat(0.1, peer, beat) == (None, [NodeTurned(peer, "decode", True)])
    assert not list(here.of("decode"))
    assert not here.able
    assert here.get(peer) is not None


@pytest.mark.parametrize(
    "changes", [{"roles": ["prefill"]}, {"roles": ["decode", "router"]}, {"address": "", "role": "prefill"}]
)
def test_roles_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    answer, _ = join(fleet(), 0.0, replace(both(), **changes))  # type: ignore[arg-type]
    assert answer is not None
    assert answer.refused
