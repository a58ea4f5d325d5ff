"""A directory behind redis Sentinel: when the master dies, its replica takes over and is filled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from members import ROUTER_A, member, record
from real_redis import RedisServer, free_port, until

QUICK = """
requirepass of-sentinel
sentinel monitor m 127.0.0.1 {master} 1
sentinel auth-pass m of-redis
sentinel down-after-milliseconds m 300
sentinel failover-timeout m 2000
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer, str]]:
    """A master, its replica, and the directory by way of two Sentinels, of which one is not there."""
    with ExitStack() as stack:
        master = stack.enter_context(RedisServer(password="of-redis"))
        flags = ("--replicaof", "127.0.0.1", str(master.port))
        replica = stack.enter_context(RedisServer(*flags, password="of-redis"))
        until(lambda: b"master_link_status:up" in raw(replica, "replication"))
        config = tmp_path / "sentinel.conf"
        config.write_text(QUICK.format(master=master.port))
        sentinel = stack.enter_context(RedisServer(str(config), "--sentinel", password="of-sentinel"))
        until(lambda: b"slaves=1" in raw(sentinel, "sentinel"), 20.0)
        sentinels = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
        yield master, replica, f"redis+sentinel://:of-redis@{sentinels}/m/0?sentinel_password=of-sentinel"


def raw(server: RedisServer, section: str) -> bytes:
    with server.client() as client:
        client.response_callbacks.clear()
        found = client.execute_command("INFO", section)
    return found if isinstance(found, bytes) else str(found).encode()


def test_after_a_failover_the_new_master_holds_all(cluster: tuple[RedisServer, RedisServer, str]) -> None:
    master, replica, url = cluster
    other = record(name="b", epoch="e2", address="tcp://10.0.0.2:7500")
    with member(url, ROUTER_A) as one, member(url, other):
        one.sees("a", "b")
        until(lambda: replica.do("EXISTS", "pagewire:{c}:router:a"))
        master.kill()
        until(lambda: not one.registry.up)
        assert one.names() == {"a", "b"}
        until(lambda: b"role:master" in raw(replica, "replication"), 20.0)
        until(lambda: one.registry.up, 10.0)
        with member(url, record(name="n", kind="decode", epoch="e3")) as late:
            late.sees("a", "b", within=10.0)
        assert replica.do("PTTL", "pagewire:{c}:router:a") > 10_000
