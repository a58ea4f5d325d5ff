"""How a child process tells its supervisor how far it is: one JSON object a line, over an inherited pipe.

    {"event": "loading", "done": 12, "total": 272}
    {"event": "ready", "facts": {"dtype": "bfloat16", "num_pages": 4096}}
    {"event": "failed", "code": "bad_model", "message": "the folder x has no config.json"}

Knows lines and a file descriptor; knows neither who reads nor what is loaded. It is one way: the child never
learns whether anybody listens, and goes on when nobody does.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

from pagewire.errors import RemoteProtocolError

Fact = str | int | float


@dataclass(frozen=True, slots=True)
class Loading:
    """``done`` of ``total`` pieces (tensors, layers or bytes: only the ratio is shown)."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The node can take requests. ``facts`` are for people to read."""

    facts: dict[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """The process ends for a reason that a restart would not change, in one sentence."""

    code: str
    message: str


Event = Loading | Ready | Failed


class Reporter:
    """The child's end. With ``fd`` None, or once the reader has gone, every call does nothing."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def loading(self, done: int, total: int) -> None:
        self._write({"event": "loading", "done": done, "total": total})

    def ready(self, **facts: Fact) -> None:
        self._write({"event": "ready", "facts": facts})

    def failed(self, code: str, message: str) -> None:
        self._write({"event": "failed", "code": code, "message": message})

    def _write(self, event: dict[str, Any]) -> None:
        if self._fd is None:
            return
        # One write of less than PIPE_BUF bytes is atomic, so that threads of the child need no lock.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._fd, json.dumps(event).encode() + b"\n")


def parse(line: bytes) -> Event:
    """The event in one line. Raises RemoteProtocolError on anything that Reporter does not write."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RemoteProtocolError("a status line is not JSON") from error
    match value:
        case {"event": "loading", "done": int(done), "total": int(total)}:
            return Loading(done, total)
        case {"event": "ready", "facts": dict(facts)}:
            return Ready(facts)
        case {"event": "failed", "code": str(code), "message": str(message)}:
            return Failed(code, message)
    raise RemoteProtocolError("unknown status event")
