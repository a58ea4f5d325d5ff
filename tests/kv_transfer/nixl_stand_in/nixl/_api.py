"""The agent of the stand-in: what is registered is served by a thread to whoever has the metadata.

The folder $NIXL_STAND_IN may hold files that make agents misbehave: "absent" (none can be made), "hang"
(asking for a READ's state does not return), "fail" (READs fail), "lie" (other bytes come), "die" (a READ
ends the process), "slow" (a READ takes as many asks as the file has bytes).
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import threading
import time
from pathlib import Path

from nixl._bindings import nixlBackendError, nixlNotFoundError


def wrong(what: str) -> Path | None:
    path = Path(os.environ["NIXL_STAND_IN"], what)
    return path if path.exists() else None


class nixl_agent_config:
    def __init__(self, enable_prog_thread: bool = True, backends: list[str] | None = None) -> None:
        assert not enable_prog_thread
        if wrong("absent"):
            raise nixlBackendError("no way to anybody")


class nixl_agent:
    def __init__(self, name: str, config: nixl_agent_config) -> None:
        self._name = name
        self._regions: dict[int, int] = {}
        self._remotes: dict[str, dict[int, int]] = {}
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(f"\0{name}")
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def register_memory(self, regions: list[tuple[int, int, int, str]], kind: str) -> tuple[int, int]:
        [(address, size, _, _)] = regions
        self._regions[address] = size
        return address, size

    def deregister_memory(self, region: tuple[int, int]) -> None:
        del self._regions[region[0]]

    def get_partial_agent_metadata(
        self, region: tuple[int, int], connection: bool, kinds: list[str]
    ) -> bytes:
        return json.dumps([self._name, *region]).encode()

    def add_remote_agent(self, metadata: bytes) -> bytes:
        try:
            name, address, size = json.loads(metadata)
        except ValueError as error:
            raise nixlBackendError("not an agent") from error
        self._remotes.setdefault(name, {})[address] = size
        return str(name).encode()

    def remove_remote_agent(self, name: str) -> None:
        del self._remotes[name]

    def get_xfer_descs(self, parts: list[tuple[int, int, int]], kind: str) -> tuple[int, int]:
        [(address, size, _)] = parts
        return address, size

    def initialize_xfer(self, way: str, here: tuple[int, int], there: tuple[int, int], name: str) -> Read:
        assert way == "READ"
        for regions, (address, size) in ((self._regions, here), (self._remotes[name], there)):
            if not any(a <= address and address + size <= a + n for a, n in regions.items()):
                raise nixlNotFoundError("no such memory")
        return Read(name, here[0], *there)

    def transfer(self, read: Read) -> str:
        return "PROC"

    def check_xfer_state(self, read: Read) -> str:
        return read.state()

    def get_new_notifs(self) -> dict[str, list[bytes]]:
        return {}

    def _serve(self) -> None:
        while True:
            line, _ = self._server.accept()
            with line:
                address, size = json.loads(line.recv(100))
                line.sendall(ctypes.string_at(address, size))


class Read:
    def __init__(self, name: str, here: int, there: int, size: int) -> None:
        self._name, self._here, self._there, self._size = name, here, there, size
        slow = wrong("slow")
        self._asks = 0 if slow is None else slow.stat().st_size

    def state(self) -> str:
        if wrong("hang"):
            time.sleep(1000)
        if wrong("die"):
            os._exit(1)
        if wrong("fail"):
            raise nixlBackendError("it failed")
        self._asks -= 1
        if self._asks > 0:
            return "PROC"
        data = bytearray()
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(f"\0{self._name}")
                line.sendall(json.dumps([self._there, self._size]).encode())
                while part := line.recv(1 << 20):
                    data += part
            except OSError as error:
                raise nixlBackendError("nobody is there") from error
        if len(data) != self._size:
            return "ERR"
        if wrong("lie"):
            data = bytearray(self._size)
        ctypes.memmove(self._here, bytes(data), self._size)
        return "DONE"
