from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from pagewire.cli.welcome import until_ready
from pagewire.errors import ConfigError
from router import tls
from router.main import RouterOptions, serve
from router.tls import context_of

Files = Callable[..., tuple[str, str]]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Paths of a new self-signed certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")

    def make(name: str, password: str = "") -> tuple[str, str]:
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        if not certificate.exists():
            secret = ["-passout", f"pass:{password}"] if password else ["-nodes"]
            words = [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                *secret,
            ]
            words += [
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1",
            ]
            subprocess.run([*words, "-out", certificate, "-keyout", key], check=True, capture_output=True)
        return str(certificate), str(key)

    return make


def options(folder: Path, **more: object) -> RouterOptions:
    return RouterOptions(model="demo", mailbox=f"ipc://{folder}/m", port=0, **more)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving(chosen: RouterOptions) -> AsyncIterator[str]:
    urls: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(serve(chosen, urls.put_nowait))
    yield await urls.get()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_clients_that_know_the_certificate_are_served(tmp_path: Path, made: Files) -> None:
    certificate, key = made("server")
    async with serving(options(tmp_path, ssl_certfile=certificate, ssl_keyfile=key)) as url:
        assert url.startswith("https://")
        trusting = ssl.create_default_context(cafile=certificate)
        async with httpx.AsyncClient(base_url=url, verify=trusting) as http:
            assert (await http.get("/live")).json() == {"status": "alive"}
        async with httpx.AsyncClient(base_url=url.replace("https", "http")) as http:
            with pytest.raises(httpx.TransportError):
                await http.get("/live")


async def test_clients_have_to_show_a_certificate_where_that_is_asked(tmp_path: Path, made: Files) -> None:
    (certificate, key), (theirs, their_key) = made("server"), made("client")
    chosen = options(tmp_path, ssl_certfile=certificate, ssl_keyfile=key, ssl_ca_certs=theirs)
    async with serving(chosen) as url:
        stranger = ssl.create_default_context(cafile=certificate)
        async with httpx.AsyncClient(base_url=url, verify=stranger) as http:
            with pytest.raises(httpx.TransportError):
                await http.get("/live")
        known = ssl.create_default_context(cafile=certificate)
        known.load_cert_chain(theirs, their_key)
        async with httpx.AsyncClient(base_url=url, verify=known) as http:
            assert (await http.get("/live")).status_code == 200


async def test_a_client_that_does_not_shake_hands(
    tmp_path: Path, made: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tls.HANDSHAKE_S == 10
    monkeypatch.setattr("router.server.HANDSHAKE_S", 0.1)
    certificate, key = made("server")
    async with serving(options(tmp_path, ssl_certfile=certificate, ssl_keyfile=key)) as url:
        host, port = url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, port)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


async def test_serve_waits_for_its_router_by_tls(tmp_path: Path, made: Files) -> None:
    certificate, key = made("server")
    chosen = options(tmp_path, ssl_certfile=certificate, ssl_keyfile=key)
    async with serving(chosen) as url:
        there = replace(chosen, port=int(url.rpartition(":")[2]))
        with pytest.raises(TimeoutError):  # it answers 503: there are no nodes
            await asyncio.wait_for(until_ready(there), 0.3)
        await asyncio.wait_for(until_ready(replace(there, ssl_ca_certs=certificate)), 5)


def test_a_key_with_a_password(tmp_path: Path, made: Files) -> None:
    certificate, key = made("locked", "open sesame")
    good = options(tmp_path, ssl_certfile=certificate, ssl_keyfile=key, ssl_keyfile_password="open sesame")
    assert context_of(good) is not None
    for wrong in ("guess", None):
        with pytest.raises(ConfigError) as error:
            context_of(
                options(tmp_path, ssl_certfile=certificate, ssl_keyfile=key, ssl_keyfile_password=wrong)
            )
        assert "guess" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ssl_certfile": "/no/such"},
        {"ssl_certfile": "README.md"},
        {"ssl_keyfile": "x"},
        {"ssl_ca_certs": "x"},
    ],
)
def test_files_that_do_not_do(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"TLS|--ssl-certfile"):
        context_of(options(tmp_path, **wrong))
