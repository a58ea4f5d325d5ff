"""The command line in this process, up to where it would start others."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
from command_line import Run, runner

from pagewire import __version__
from pagewire.cli import machine, main, roles, serve
from pagewire.cli.local import Local
from pagewire.cli.supervisor import End
from pagewire.node_options import NodeOptions
from pagewire.status import Reporter
from router.options import RouterOptions


@pytest.fixture
def pagewire(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; gives exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("PAGEWIRE_API_KEY", "PAGEWIRE_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    return runner(monkeypatch, capsys)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been started: a Local from serve, options from the others."""
    found: list[Any] = []

    async def supervise(local: Local, name: str) -> End:
        found.extend([local, name])
        return End(0)

    monkeypatch.setattr(serve, "_supervise", supervise)
    monkeypatch.setattr(roles, "run", found.append)
    monkeypatch.setattr(machine, "cores", lambda: 12)
    return found


def test_the_version(pagewire: Run) -> None:
    assert pagewire("version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("command", [(), ("serve",), ("router",), ("prefill",), ("decode",), ("doctor",)])
def test_help_says_how_to_use_it(pagewire: Run, command: tuple[str, ...]) -> None:
    code, out, _ = pagewire(*command, "--help")
    assert code == 0
    assert f"pagewire {command[0] if command else 'serve'}" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("serve", "--kv-cache-memory", "much"), "'much' is not a size; write for example 512MiB"),
        (("serve", "--kv-cache-memory", "900TiB"), "2 nodes with 900 TiB of KV cache each need more than"),
        (("serve", "no/such/model"), "no/such/model is neither a model folder nor a .gguf file"),
        (("serve", "./x.gguf"), "no such GGUF file: ./x.gguf"),
        (("serve", "a", "--model", "b"), "two models are named: a and b"),
        (("serve", "--api-key", ""), "an API key must be printable ASCII"),
        (("serve", "--host", "0.0.0.0"), "anybody who reaches 0.0.0.0 could use this router"),
        (("router", "--api-key-file", "/no/file"), "the API key file /no/file cannot be read"),
        (("serve", "--host", "198.51.100.1", "--insecure"), "cannot listen on 198.51.100.1:8000"),
        (("serve", "-tp", "2"), "-tp 2 cannot be had: a node computes on one device so far"),
        (
            ("serve", "--gpu-memory-utilization=0.9"),
            "--gpu-memory-utilization 0.9 cannot be had: say how much",
        ),
        (("router", "--listen", "http://x"), "--listen http://x: write it as tcp://HOST:PORT"),
        (("prefill", "--router", "tcp://x"), "--router tcp://x: write it as tcp://HOST:PORT"),
        (("decode", "--router", "tcp://127.0.0.1:1", "--handoff", "x"), "--handoff x: write it as"),
        (
            ("prefill", "--router", "tcp://127.0.0.1:1", "--topology", "a//b"),
            "--topology a//b: write up to 8",
        ),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(pagewire: Run, argv: tuple[str, ...], message: str) -> None:
    code, out, err = pagewire(*argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"pagewire: {message}")


@pytest.mark.parametrize(
    "argv", [("serve", "--no-such-flag"), ("serve", "--decode", "0"), ("prefill",), ("x",)]
)
def test_wrong_usage_is_exit_code_2(pagewire: Run, argv: tuple[str, ...]) -> None:
    assert pagewire(*argv)[0] == 2


def test_a_port_in_use_is_found_before_anything_is_loaded(pagewire: Run, started: list[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, err = pagewire("serve", "no-such-model.gguf", "--port", str(port))
    assert (code, err) == (
        2,
        f"pagewire: cannot listen on 127.0.0.1:{port}: address already in use; choose another with --port\n",
    )
    assert not started


def test_serve_without_flags(pagewire: Run, started: list[Any]) -> None:
    assert pagewire("serve", "--port", "0")[0] == 0
    local, name = started
    assert (local.prefill, local.decode, local.transport, name) == (1, 1, "auto", "SmolLM2-135M-Instruct")
    assert local.node == NodeOptions(node_id="", role="", model="demo", routers=(), threads=6, grace_s=4.0)
    assert local.router.port > 0


def test_serve_with_all_flags(pagewire: Run, started: list[Any]) -> None:
    flags = (
        "--prefill 2 --decode 3 --host localhost --port 0 --max-model-len 4096 --page-size 32 "
        "--kv-cache-memory 64MiB --dtype float16 --load-format dummy --served-model-name a "
        "--served-model-name b --api-key k1 --api-key k2 --transport tcp --max-num-batched-tokens 64 "
        "--max-num-seqs 8 --no-prefix-caching --recovery-timeout 3 --log-level debug --model demo"
    )
    assert pagewire("serve", *flags.split())[0] == 0
    local, name = started
    assert (local.prefill, local.decode, local.transport, name) == (2, 3, "tcp", "a")
    assert local.node == NodeOptions(
        node_id="",
        role="",
        model="demo",
        routers=(),
        dtype="float16",
        load_format="dummy",
        max_model_len=4096,
        page_size=32,
        kv_cache_bytes=64 << 20,
        max_batch_tokens=64,
        max_num_seqs=8,
        threads=2,
        prefix_caching=False,
        served_model_name="a",
        log_level="debug",
        grace_s=4.0,
    )
    assert local.router == RouterOptions(
        model="demo",
        mailbox="",
        served_model_names=("a", "b"),
        host="localhost",
        port=local.router.port,
        api_keys=("k1", "k2"),
        max_model_len=4096,
        recovery_s=3.0,
        grace_s=4.0,
        log_level="debug",
    )


def test_the_spellings_of_vllm(pagewire: Run, started: list[Any]) -> None:
    flags = (
        "--port 0 --block-size 8 --kv-cache-memory-bytes 1000000 --max_model_len 64 "
        "--no-enable-prefix-caching --tensor-parallel-size 1 -pp=1 --enable-chunked-prefill --enforce-eager"
    )
    assert pagewire("serve", *flags.split())[0] == 0
    node = started[0].node
    assert (node.page_size, node.kv_cache_bytes, node.max_model_len, node.prefix_caching) == (
        8,
        1000000,
        64,
        False,
    )


def test_keys_from_the_environment(
    pagewire: Run, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGEWIRE_API_KEY", "one two")
    pagewire("serve", "--port", "0")
    assert started[0].router.api_keys == ("one", "two")


def test_more_nodes_than_cores_get_a_thread_each(pagewire: Run, started: list[Any]) -> None:
    pagewire("serve", "--port", "0", "--prefill", "20", "--kv-cache-memory", "1MiB")
    assert started[0].node.threads == 1


def test_what_went_wrong_is_the_last_line(pagewire: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def supervise(local: Local, name: str) -> End:
        return End(2, "there is no such model")

    monkeypatch.setattr(serve, "_supervise", supervise)
    assert pagewire("serve", "--port", "0") == (2, "", "pagewire: there is no such model\n")


def test_a_router_by_itself(pagewire: Run, started: list[Any]) -> None:
    pagewire(
        "router",
        "--listen",
        "tcp://127.0.0.1:0",
        "--port",
        "0",
        "--cluster-secret-file",
        "s",
        "--router-id",
        "r",
    )
    assert started == [
        RouterOptions(model="demo", mailbox="tcp://127.0.0.1:0", port=0, secret_file="s", router_id="r")
    ]


def test_a_decode_node_by_itself(pagewire: Run, started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    argv = "decode ./m --router tcp://127.0.0.1:1 --router ipc:///r --handoff tcp://0.0.0.0:7600 --node-id d"
    pagewire(*argv.split())
    assert [replace(options, status_fd=None) for options in started] == [
        NodeOptions(
            node_id="d",
            role="decode",
            model="./m",
            routers=("tcp://127.0.0.1:1", "ipc:///r"),
            handoff="tcp://127.0.0.1:7600",
            threads=12,
        )
    ]


def test_a_prefill_node_is_called_after_its_host(
    pagewire: Run, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.setattr("socket.gethostname", lambda: "host7")
    pagewire("prefill", "--router", "tcp://127.0.0.1:1")
    assert (started[0].node_id, started[0].role, started[0].handoff) == ("prefill-host7", "prefill", "")


def test_doctor_for_programs(pagewire: Run) -> None:
    code, out, _ = pagewire("doctor", "--json")
    found = json.loads(out)
    assert code == bool(found["pagewire"]["problems"])
    assert found["pagewire serve"]["transport"] == "shm"


def test_doctor_for_people(pagewire: Run) -> None:
    out = pagewire("doctor")[1]
    assert all(
        word in out for word in ("cores", "torch", "redis server", "demo model", "threads of each node")
    )


def test_a_node_by_itself_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["pagewire", "prefill", "--router", "tcp://127.0.0.1:1", "--node-id", "p"]
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.setattr(roles, "run", lambda options: Reporter(options.status_fd).ready(num_pages=7))
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        main.main()
    for thread in threading.enumerate():
        if thread.name == "status":
            thread.join(10)
    assert capfd.readouterr().out == f"p: ready, pid {os.getpid()}, num_pages 7\n"


def test_a_worker_begins_as_it_is_told(
    pagewire: Run, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.setattr("socket.gethostname", lambda: "host7")
    pagewire(
        *["worker", "--router", "tcp://127.0.0.1:1", "--role", "prefill", "--handoff", "tcp://127.0.0.1:7600"]
    )
    node = started[0]
    assert (node.node_id, node.role, node.flexible) == ("worker-host7", "prefill", True)
    assert (node.handoff, node.grace_s) == ("tcp://127.0.0.1:7600", 30.0)


def test_targets_for_autorole(pagewire: Run, started: list[Any]) -> None:
    pagewire(*["serve", "--port", "0", "--autorole", "--slo", "itl:40,ttft:500"])
    local = started[0]
    assert (local.router.slo_ttft_ms, local.router.slo_itl_ms, local.flexible) == (500.0, 40.0, True)


@pytest.mark.parametrize("slo", ["ttft:5", "ttft:0,itl:5", "ttft:x,itl:5", "5,5", "tpot:5,ttft:5", ""])
def test_targets_that_are_none(pagewire: Run, slo: str) -> None:
    code, _, err = pagewire("serve", "--port", "0", "--slo", slo)
    assert code == 2
    assert err.startswith("pagewire: --slo ")
