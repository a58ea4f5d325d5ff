from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pagewire.cli import roles
from pagewire.cli.local import Local, thread_environment
from pagewire.node_options import NodeOptions
from router.options import RouterOptions

FOLDER = Path("/run/x")
LOCAL = Local(
    prefill=1,
    decode=2,
    transport="auto",
    node=NodeOptions(node_id="", role="", model="demo", routers=(), threads=3),
    router=RouterOptions(model="demo", mailbox="", api_keys=("hush",)),
)


def nodes(local: Local) -> list[NodeOptions]:
    made = [roles.from_json("node", spec.options, status_fd=7) for spec in local.specs(FOLDER)[1:]]
    return [node for node in made if isinstance(node, NodeOptions)]


def test_one_child_for_each_process() -> None:
    assert [spec.name for spec in LOCAL.specs(FOLDER)] == ["router", "prefill-0", "decode-0", "decode-1"]


def test_nodes_dial_the_address_where_the_router_listens() -> None:
    router = roles.from_json("router", LOCAL.specs(FOLDER)[0].options, status_fd=7)
    assert isinstance(router, RouterOptions)
    assert {node.routers for node in nodes(LOCAL)} == {(router.mailbox,)}


def test_each_decode_node_listens_at_an_address_of_its_own() -> None:
    assert len({node.handoff for node in nodes(LOCAL)}) == 3


def test_prefill_nodes_share_what_decode_nodes_leave_and_yield() -> None:
    def parts(local: Local) -> list[tuple[int, int]]:
        return [(node.threads, node.niceness) for node in nodes(local)]

    assert parts(LOCAL) == [(3, 0), (3, 0), (3, 0)]
    assert parts(replace(LOCAL, cores=9)) == [(9, 15), (3, 0), (3, 0)]
    assert parts(replace(LOCAL, prefill=2, cores=12)) == [(6, 15), (6, 15), (3, 0), (3, 0)]
    assert parts(replace(LOCAL, prefill=4, decode=1, cores=11)) == [(3, 15)] * 4 + [(3, 0)]
    assert LOCAL.specs(FOLDER)[1].env == thread_environment(3)
    assert replace(LOCAL, cores=9).specs(FOLDER)[1].env == thread_environment(9)


def test_over_tcp_each_takes_a_free_port() -> None:
    assert [node.handoff for node in nodes(replace(LOCAL, transport="tcp"))] == [
        "",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:0",
    ]


def test_options_survive_the_pipe() -> None:
    options = replace(LOCAL.node, max_model_len=100, routers=("a", "b"))
    assert roles.from_json("node", roles.to_json(options), status_fd=7) == replace(options, status_fd=7)


def test_options_are_one_line_and_no_key_is_on_the_command_line() -> None:
    spec = LOCAL.specs(FOLDER)[0]
    assert "\n" not in spec.options
    assert "hush" in json.loads(spec.options)["api_keys"]
    assert not any("hush" in word for word in (*spec.argv, *spec.env.values()))


def test_a_secret_goes_to_all() -> None:
    local = LOCAL.with_secret("/run/x/secret")
    assert {local.router.secret_file, local.node.secret_file} == {"/run/x/secret"}


def test_nodes_get_their_threads_and_waiting_threads_sleep() -> None:
    env = LOCAL.specs(FOLDER)[1].env
    assert (env["OMP_NUM_THREADS"], env["OMP_WAIT_POLICY"], env["GOMP_SPINCOUNT"]) == ("3", "PASSIVE", "0")
    assert thread_environment(1)["MKL_NUM_THREADS"] == "1"


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_nodes_are_named_by_their_role(role: str) -> None:
    assert [n.node_id for n in nodes(LOCAL) if n.role == role] == {
        "prefill": ["prefill-0"],
        "decode": ["decode-0", "decode-1"],
    }[role]


def test_nodes_are_shared_out_among_the_gpus_and_share_the_memory_of_one() -> None:
    def parts(gpus: tuple[str, ...]) -> list[tuple[str | None, float]]:
        local = replace(LOCAL, gpus=gpus)
        specs = local.specs(FOLDER)[1:]
        shares = [round(node.gpu_memory_utilization, 3) for node in nodes(local)]
        return [
            (spec.env.get("CUDA_VISIBLE_DEVICES"), share) for spec, share in zip(specs, shares, strict=True)
        ]

    assert parts(()) == [(None, 0.9)] * 3
    assert parts(("0",)) == [("0", 0.3)] * 3
    assert parts(("2", "5")) == [("2", 0.45), ("5", 0.9), ("2", 0.45)]
    assert parts(("0", "1", "2", "3")) == [("0", 0.9), ("1", 0.9), ("2", 0.9)]
    assert "CUDA_VISIBLE_DEVICES" not in replace(LOCAL, gpus=("0",)).specs(FOLDER)[0].env, (
        "the router has none"
    )
