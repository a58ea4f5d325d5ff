"""Hosts on one bridge: named network namespaces with a virtual cable each. Linux, root and iproute2.

Knows namespaces, addresses, names and bytes; knows no program. Names resolve inside as they do under compose:
iproute2 lays /etc/netns/NAMESPACE/hosts over /etc/hosts. What a run leaves behind when it is killed, the next
one removes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

PREFIX = "pw-"
BRIDGE = "pwbridge"
NET = "10.78.0."
OUTSIDE = NET + "254"  # this process, on the bridge itself
_NAMES = Path("/etc/netns")


class Bridge:
    """``hosts``: their names; each gets the next address. A context manager."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.addresses = {name: f"{NET}{number}" for number, name in enumerate(hosts, start=1)}

    def __enter__(self) -> Bridge:
        sweep()
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        names = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        for name, address in self.addresses.items():
            space, cable = PREFIX + name, self.cable(name)
            folder = _NAMES / space
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
            _ip("netns", "add", space)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", cable, "master", BRIDGE, "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        sweep()

    def start(
        self, host: str, command: Sequence[str], log: IO[str], env: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """Run ``command`` on ``host``; the process is the command's own."""
        whole = ["ip", "netns", "exec", PREFIX + host, *command]
        return subprocess.Popen(whole, stdout=log, stderr=subprocess.STDOUT, env=env)

    def output(self, host: str, *command: str) -> str:
        """What a short command on ``host`` prints."""
        whole = ["ip", "netns", "exec", PREFIX + host, *command]
        return subprocess.run(whole, check=True, capture_output=True, text=True).stdout

    def cut(self, host: str, *, up: bool = False) -> None:
        """Pull the cable of ``host``, or plug it in again."""
        _ip("link", "set", self.cable(host), "up" if up else "down")

    def sent(self) -> dict[str, int]:
        """Bytes that each host has put on its cable so far."""
        found = {}
        for name in self.addresses:
            folder = Path("/sys/class/net", self.cable(name), "statistics")
            found[name] = int((folder / "rx_bytes").read_text())
        return found

    @staticmethod
    def cable(host: str) -> str:
        return f"{PREFIX}{host}"[:15]


def possible() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None and Path("/proc/self/ns/net").exists()


def sweep() -> None:
    """Remove what is there of a bridge and its hosts; processes on them are ended by whoever started them."""
    there = json.loads(_ip("-j", "netns", "list") or "[]")
    for space in [entry["name"] for entry in there if entry["name"].startswith(PREFIX)]:
        _ip("netns", "delete", space)
    for folder in _NAMES.glob(f"{PREFIX}*"):
        shutil.rmtree(folder)
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip("link", "delete", BRIDGE)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
