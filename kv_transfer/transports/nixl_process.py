"""A node's NIXL process: started, spoken to, noticed when it ends, and ended.

Knows a process, its socket and its environment; what is said is ``nixl_words``' and means nothing here. Only
this user can reach the socket, whose file is gone once the process has found it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec

from kv_transfer.transports.base import Peer
from kv_transfer.transports.folder import private_folder
from kv_transfer.transports.nixl_words import READY, Word
from kv_transfer.transports.zeromq import Router, Socket
from pagewire.errors import ConfigError

START_S = 60.0
_STOP_S = 5.0
_NOT_FOR_IT = ("NIXL_ETCD_ENDPOINTS", "NIXL_TELEMETRY_ENABLE", "NIXL_TELEMETRY_DIR")


def has_nixl() -> bool:
    return find_spec("nixl") is not None


def require_nixl() -> None:
    """Raises ConfigError if it is not installed."""
    if not has_nixl():
        raise ConfigError("nixl:// needs NIXL: pip install 'pagewire[nixl]'")


class NixlProcess:
    """Starts at once, and hears nothing before it ``ready``."""

    def __init__(self, *, everywhere: bool) -> None:
        """``everywhere``: its UCX uses all networks, else only the loopback interface."""
        self._folder = private_folder()
        self._router = Router(f"ipc://{self._folder / 'nixl.sock'}", None)
        self._name: Peer | None = None
        self._began = time.monotonic()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "kv_transfer.transports.nixl_agent", self._router.endpoint],
            stdin=subprocess.PIPE,  # it ends when this closes
            stdout=subprocess.DEVNULL,
            env=_environment(everywhere),
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ready(self) -> bool:
        return self._name is not None

    @property
    def ended(self) -> bool:
        """It is gone, or will not get ready. One that stands shows in what it does not answer."""
        return self._child.poll() is not None or (not self.ready and self.age > START_S)

    @property
    def sockets(self) -> list[Socket]:
        return self._router.sockets()

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    def await_ready(self) -> None:
        """Raises ConfigError if it does not get there."""
        while not self.ready and not self.ended:
            self._router.sockets()[0].poll(20)
            self.hear()
        if not self.ready:
            self.close()
            raise ConfigError("NIXL does not start: its own words, if any, are above")

    def say(self, kind: bytes, *numbers: int, blob: bytes = b"") -> None:
        """If it cannot be said, the process has ended, or soon counts as if it had."""
        assert self._name is not None, "it is not ready"
        self._router.send(self._name, Word(kind, numbers, blob).parts())

    def hear(self) -> list[Word]:
        """What it has said since. READY is the first word."""
        found = []
        for message in self._router.receive():
            word = Word.of(message.parts)
            if word.kind == READY:
                self._name = message.peer
                shutil.rmtree(self._folder, ignore_errors=True)
            found.append(word)
        return found

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.kill()  # it may stand in a call that does not end
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_STOP_S)
        self._router.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _environment(everywhere: bool) -> dict[str, str]:
    """No directory of agents and no telemetry: peers are known by our own connections only. No GPU either:
    what is read is host memory.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_IT}
    quiet = {"NIXL_LOG_LEVEL": "FATAL", "UCX_LOG_LEVEL": "fatal", "CUDA_VISIBLE_DEVICES": ""}
    return quiet | kept | {"CUDA_VISIBLE_DEVICES": ""} | ({} if everywhere else {"UCX_NET_DEVICES": "lo"})
