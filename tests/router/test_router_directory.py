"""A router in a directory: where nodes are told to dial it, what is shown of it, and when it leaves."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from router import main
from router.directory import DirectoryMetrics, dialled_at
from router.options import RouterOptions


@pytest.mark.parametrize(
    ("bound", "advertise", "address"),
    [
        ("tcp://127.0.0.1:7500", "", "tcp://127.0.0.1:7500"),
        ("tcp://0.0.0.0:41234", "tcp://10.0.0.5:0", "tcp://10.0.0.5:41234"),
        ("tcp://0.0.0.0:41234", "tcp://[fe80::1]:0", "tcp://[fe80::1]:41234"),
        ("tcp://0.0.0.0:7500", "tcp://10.0.0.5:7501", "tcp://10.0.0.5:7501"),
        ("ipc:///r", "ipc:///r", "ipc:///r"),
        ("ipc:///r", "tcp://10.0.0.5:7501", "tcp://10.0.0.5:7501"),
    ],
)
def test_where_nodes_dial_a_router(bound: str, advertise: str, address: str) -> None:
    assert dialled_at(bound, advertise) == address


class Directory:
    up = True
    refused = 3
    counts = {"router": 2, "decode": 1}  # noqa: RUF012

    def __init__(self, happened: list[str]) -> None:
        self._happened = happened

    def leave(self) -> None:
        if "leaves" not in self._happened:
            self._happened.append("leaves")


def test_what_is_shown_of_the_directory() -> None:
    registry = CollectorRegistry()
    registry.register(DirectoryMetrics(Directory([])))
    lines = generate_latest(registry).decode().splitlines()
    assert {
        "pagewire:registry_up 1.0",
        'pagewire:registry_records{kind="router"} 2.0',
        'pagewire:registry_records{kind="decode"} 1.0',
        "pagewire:registry_refused_total 3.0",
    } <= set(lines)


async def test_on_a_signal_it_leaves_the_directory_before_it_drains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    drain = main._drain

    async def drained(*args: Any) -> None:
        happened.append("drains")
        await drain(*args)

    monkeypatch.setattr(main, "listed", lambda *args: Directory(happened))
    monkeypatch.setattr(main, "_drain", drained)
    urls: asyncio.Queue[str] = asyncio.Queue()
    options = RouterOptions(model="demo", mailbox=f"ipc://{tmp_path}/m", port=0, canary_s=0.0)
    serving = asyncio.create_task(main.serve(options, urls.put_nowait))
    await urls.get()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 10)
    assert happened == ["leaves", "drains"]
