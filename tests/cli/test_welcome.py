from __future__ import annotations

import asyncio
import json
import shlex

from pagewire.cli.welcome import banner, until_ready
from router.options import RouterOptions

ROUTER = RouterOptions(model="demo", mailbox="", host="0.0.0.0", port=8123)


def curl(text: str) -> list[str]:
    """The words of the line to paste."""
    return shlex.split(next(line for line in text.splitlines() if line.startswith("curl ")))


def test_the_line_to_paste_asks_the_model_that_is_served() -> None:
    words = curl(banner(ROUTER, "it's a model", {}))
    body = json.loads(words[words.index("-d") + 1])
    assert words[1] == "http://127.0.0.1:8123/v1/chat/completions"
    assert (body["model"], body["timing"]) == ("it's a model", True)


def test_with_keys_the_line_takes_it_from_the_environment() -> None:
    keyed = RouterOptions(model="demo", mailbox="", api_keys=("hush",))
    text = banner(keyed, "m", {})
    assert "Authorization: Bearer $PAGEWIRE_API_KEY" in curl(text)
    assert "hush" not in text


def test_with_a_certificate_the_address_is_https() -> None:
    assert "https://127.0.0.1:8000/" in banner(
        RouterOptions(model="m", mailbox="", ssl_certfile="c"), "m", {}
    )


def test_it_says_who_is_who() -> None:
    assert "  decode-0     pid 12\n" in banner(ROUTER, "m", {"router": 11, "decode-0": 12})


def test_an_address_of_version_6() -> None:
    assert "http://[::1]:8000/" in banner(RouterOptions(model="demo", mailbox="", host="::"), "m", {})


async def test_it_waits_until_the_router_says_200() -> None:
    answers = ["503 Service Unavailable", "503 Service Unavailable", "200 OK"]
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(f"HTTP/1.1 {answers.pop(0)}\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        await until_ready(RouterOptions(model="m", mailbox="", port=server.sockets[0].getsockname()[1]))
    assert asked == [b"GET /ready HTTP/1.0\r\n"] * 3
