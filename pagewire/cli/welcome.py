"""The end of the start: waiting until the router is ready, and what the user is told then."""

from __future__ import annotations

import asyncio
import json
import shlex

from pagewire import __version__
from router.options import RouterOptions

_POLL_S = 0.1


async def until_ready(host: str, port: int) -> None:
    """Until GET /ready answers 200: the router has met its nodes."""
    while not await _answers_ready(host, port):
        await asyncio.sleep(_POLL_S)


async def _answers_ready(host: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(_dialable(host), port)
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
    url = f"http://{_in_url(_dialable(router.host))}:{router.port}"
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
