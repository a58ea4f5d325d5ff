"""The conformance table: what OpenAI (or vLLM) documents, what pagewire does, and a check of it.

A row's check is run against a real server and raises AssertionError if what the row says is not so. Knows how
rows are kept and how a table is written; the rows are in the modules beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import openai

AREAS = (
    "chat", "streams", "tools", "structured output", "vLLM's", "completions", "responses", "errors", "routes",
)  # fmt: skip
MODEL = "SmolLM2-135M-Instruct"
HI = [{"role": "user", "content": "Say hello."}]
STORY = "Once upon a time"


class Server:
    """A server that runs, through the official client and by hand."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
        self.http = httpx.Client(base_url=url, timeout=120)
        self._plain: dict[str, str] = {}

    def close(self) -> None:
        self.openai.close()
        self.http.close()

    def chat(self, **body: Any) -> Any:
        """Few tokens and greedy, unless ``body`` says otherwise."""
        given = {"model": MODEL, "messages": HI, "temperature": 0, "max_tokens": 4} | body
        return self.openai.chat.completions.create(**given)

    def complete(self, **body: Any) -> Any:
        given = {"model": MODEL, "prompt": STORY, "temperature": 0, "max_tokens": 4} | body
        return self.openai.completions.create(**given)

    def respond(self, **body: Any) -> Any:
        given = {"model": MODEL, "input": "Say hello.", "temperature": 0, "max_output_tokens": 4} | body
        return self.openai.responses.create(**given)

    def text(self, **body: Any) -> str:
        """What a chat answers."""
        return self.chat(**body).choices[0].message.content or ""

    def said(self, area: str, **body: Any) -> str:
        """What the route of ``area`` answers."""
        if area == "completions":
            return self.complete(**body).choices[0].text or ""
        return self.respond(**body).output_text if area == "responses" else self.text(**body)

    def plain(self, area: str) -> str:
        """The same without further fields, asked once."""
        if area not in self._plain:
            self._plain[area] = self.said(area)
        return self._plain[area]

    def raw_chat(self, **body: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 4} | body)


Check = Callable[[Server], None]


@dataclass(frozen=True, slots=True)
class Row:
    area: str
    field: str
    documented: str
    done: str
    check: Check


ROWS: list[Row] = []


def row(area: str, field: str, documented: str, done: str) -> Callable[[Check], Check]:
    """Put a check into the table."""

    def put(check: Check) -> Check:
        ROWS.append(Row(area, field, documented, done, check))
        return check

    return put


def refused(area: str, field: str, documented: str, why: str, *, path: str = "", **body: Any) -> None:
    """A row of what is refused: status 400, and the error names the field."""
    paths = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "responses": "/v1/responses"}
    base: dict[str, Any] = {"chat": {"messages": HI}, "completions": {"prompt": STORY}}.get(
        area, {"input": "x"}
    )

    def check(server: Server) -> None:
        reply = server.http.post(path or paths[area], json=base | body)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, field), reply.text
        assert set(error) == {"message", "type", "param", "code"}

    ROWS.append(Row(area, field, documented, f"refused: {why}", check))


def accepted(area: str, field: str, documented: str, done: str, **body: Any) -> None:
    """A row of what changes nothing: the answer is the same with it and without."""

    def check(server: Server) -> None:
        assert server.said(area, extra_body=body) == server.plain(area)

    ROWS.append(Row(area, field, documented, done, check))


def table(results: dict[str, str]) -> str:
    """The table in Markdown. ``results`` gives pass or fail for each row's name."""
    lines: list[str] = []
    area = ""
    for found in sorted(ROWS, key=lambda row: AREAS.index(row.area)):
        if found.area != area:
            area = found.area
            lines += ["", f"**{area}**", "", "| field | documented | here | |", "|---|---|---|---|"]
        lines.append(f"| `{found.field}` | {found.documented} | {found.done} | {results[name_of(found)]} |")
    return "\n".join(lines[1:]) + "\n"


def name_of(found: Row) -> str:
    return f"{found.area}: {found.field}: {found.done}"
