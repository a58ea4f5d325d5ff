"""The end of the start: waiting until the router is ready, and what the user is told then."""

from __future__ import annotations

import asyncio
import json
import shlex
import ssl

from pagewire import __version__
from router.options import RouterOptions

_POLL_S = 0.1


async def until_ready(router: RouterOptions) -> None:
    """Until GET /ready answers 200: a request has come through. Where clients need a certificate, until it
    takes connections: we have none to show."""
    while not await (_listens if router.ssl_ca_certs else _answers_ready)(router):
        await asyncio.sleep(_POLL_S)


async def _listens(router: RouterOptions) -> bool:
    try:
        _, writer = await asyncio.open_connection(_dialable(router.host), router.port)
    except OSError:
        return False
    writer.close()
    return True


async def _answers_ready(router: RouterOptions) -> bool:
    host, port, tls = router.host, router.port, None
    if router.ssl_certfile is not None:  # our own child, by its address: its certificate names another
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    try:
        reader, writer = await asyncio.open_connection(_dialable(host), port, ssl=tls)
    except OSError:
        return False
    try:
        writer.write(f"GET /ready HTTP/1.0\r\nHost: {_in_url(host)}\r\n\r\n".encode())
        return b" 200 " in await reader.readline()
    except ConnectionError:
        return False
    finally:
        writer.close()


def banner(router: RouterOptions, name: str, pids: dict[str, int]) -> str:
    """What to tell the user when all is up: the address, who is who, and a line to paste."""
    scheme = "http" if router.ssl_certfile is None else "https"
    url = f"{scheme}://{_in_url(_dialable(router.host))}:{router.port}"
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 32,
        "temperature": 0,
        "timing": True,
    }
    headers = "-H 'Content-Type: application/json'"
    if router.api_keys or router.api_key_file:
        headers += ' -H "Authorization: Bearer $PAGEWIRE_API_KEY"'
    return "\n".join(
        [
            "",
            f"pagewire {__version__} serves {name} at {url}",
            *(f"  {child:<12} pid {pid}" for child, pid in pids.items()),
            "",
            f"curl {url}/v1/chat/completions {headers} -d {shlex.quote(json.dumps(body))}",
            "",
        ]
    )


def _dialable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
