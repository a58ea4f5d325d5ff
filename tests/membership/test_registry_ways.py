"""The ways to a redis that are not plain TCP: TLS, a socket in the file system, TLS by way of Sentinels."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from members import ROUTER_A, member
from real_redis import RedisServer, until
from redis.connection import SSLConnection
from redis.sentinel import SentinelManagedSSLConnection

from pagewire.errors import ConfigError
from pagewire.membership.store import check, connected
from pagewire.membership.url import parse


class TlsBefore:
    """Takes TLS connections and carries what is in them to ``port``."""

    def __init__(self, port: int, folder: Path) -> None:
        self.certificate, key = folder / "crt", folder / "key"
        words = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
        )
        files = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(self.certificate), "-keyout", str(key)]
        subprocess.run([*words.split(), *files], check=True, capture_output=True)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, key)
        self._far = ("127.0.0.1", port)
        self._listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except ssl.SSLError:  # somebody does not trust us
                continue
            except OSError:
                return
            far = socket.create_connection(self._far)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError), source:
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[TlsBefore]:
    with RedisServer() as server:
        before = TlsBefore(server.port, tmp_path)
        yield before
        before.close()


def test_over_tls_only_with_a_certificate_that_is_trusted(tls: TlsBefore) -> None:
    url = f"rediss://127.0.0.1:{tls.port}/0"
    trusting, doubting = f"{url}?ssl_ca_certs={tls.certificate}", url
    with member(trusting, ROUTER_A) as one, member(doubting, ROUTER_A) as other:
        one.sees("a")
        until(lambda: other.registry._outage._tries > 1)
        assert not other.looks


def test_by_a_socket_in_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with RedisServer("--unixsocket", str(path)), member(f"unix://{path}", ROUTER_A) as one:
        one.sees("a")


def test_with_sentinels_tls_is_for_them_and_for_redis() -> None:
    url = "rediss+sentinel://u:p@a:1,b:2/m/3?ssl_check_hostname=no&sentinel_password=q"
    with connected(parse(url)) as client:
        pool = client.connection_pool
        sentinels = pool.sentinel_manager.sentinels
        assert pool.connection_class is SentinelManagedSSLConnection
        given = pool.connection_kwargs
        assert (given["username"], given["password"], given["db"]) == ("u", "p", 3)
        assert not given["ssl_check_hostname"]
        for sentinel, port in zip(sentinels, (1, 2), strict=True):
            given = sentinel.connection_pool.connection_kwargs
            assert sentinel.connection_pool.connection_class is SSLConnection
            assert (given["port"], given["password"], given["username"]) == (port, "q", None)
            assert not given["ssl_check_hostname"]


@pytest.mark.parametrize("more", ["no_such_option=1", "socket_timeout=long", "db=x"])
def test_an_option_that_there_is_not_is_told_at_the_start(more: str) -> None:
    for url in ("redis://:hush@h", "unix://:hush@/r", "redis+sentinel://:hush@a/m"):
        with pytest.raises(ConfigError, match="an option") as error:
            check(parse(f"{url}?{more}"))
        assert "hush" not in str(error.value)
