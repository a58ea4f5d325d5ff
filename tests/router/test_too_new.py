"""What a node of the version before ours would drop is not sent there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import World
from placement_world import fleet, node

from pagewire.cli.schema import spoken
from pagewire.errors import Unavailable
from pagewire.messages import DecodeTarget, Epoch, Failed, NodeId, PrefillRequest, RequestId
from pagewire.sampling import SamplingParams
from pagewire.schema import Schema
from pagewire.versions import LEVEL, release_of
from router.failures import error_of
from router.fleet import Node
from router.skew import TOO_OLD, too_new

GREEDY = SamplingParams(temperature=0.0)
MIN_P = SamplingParams(min_p=0.1)


def request(sampling: SamplingParams) -> PrefillRequest:
    target = DecodeTarget(NodeId("decode-0"), Epoch("e"), "shm://x")
    return PrefillRequest(RequestId("r"), 0, [0], [1], 1, sampling, 7, "", 1000, target)


def last() -> Schema:
    """As if ``min_p`` had come with this version."""
    now = spoken()
    before = {name: kind for name, kind in now.classes["SamplingParams"].items() if name != "min_p"}
    return replace(now, classes=now.classes | {"SamplingParams": before})


def of_release(level: int) -> list[Node | None]:
    nodes: list[Node | None] = []
    for name in ("prefill-0", "decode-0"):
        each = node(fleet(name), name)
        each.level = level
        nodes.append(each)
    return nodes


def test_older_nodes_are_not_asked_for_what_they_do_not_know() -> None:
    ours, older = of_release(LEVEL), of_release(LEVEL - 1)
    needs = f"SamplingParams.min_p needs nodes of version {release_of(LEVEL)}"
    for nodes, name in ((older, "prefill-0"), ([ours[0], older[1]], "decode-0")):
        assert too_new(request(MIN_P), nodes, last()) == f"{needs}, and {name} is older"
        assert too_new(request(GREEDY), nodes, last()) == ""
    for nodes in (ours, of_release(LEVEL + 1), [None, None]):
        assert too_new(request(MIN_P), nodes, last()) == ""


def test_the_client_is_told_by_name_that_it_may_come_again() -> None:
    failed = Failed(NodeId("p"), Epoch("e"), RequestId("r"), 0, TOO_OLD, "x needs nodes of version 9", True)
    error = error_of(failed)
    assert isinstance(error, Unavailable)
    assert str(error) == "x needs nodes of version 9"


@pytest.mark.parametrize(
    "older", [("prefill-0", "decode-0"), ("prefill-0", "prefill-1", "decode-0", "decode-1")]
)
async def test_a_newer_node_serves_it_or_nobody(
    crowd: World, older: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.skew.released", lambda level: last())
    for name in older:
        crowd.service.fleet.nodes[NodeId(name)].level = LEVEL - 1
    assert (await crowd.complete()).status_code == 200
    asked_before = len(crowd.cluster.requests())
    reply = await crowd.complete(min_p=0.1)
    if len(older) == 4:
        assert reply.status_code == 503
        assert "SamplingParams.min_p needs nodes of version" in reply.json()["error"]["message"]
        assert len(crowd.cluster.requests()) == asked_before
    else:
        assert reply.status_code == 200
        assert "prefill=prefill-1; decode=decode-1" in reply.headers["x-pagewire-served-by"]
