"""Clients that hang up, and what the system did after each of them left.

``Caller`` is one client over a socket of its own; ``aftermath`` reads a trace. A token is wasted if a node
computed it beyond the last that the client had read when it hung up.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from watched import Line, Trace

PATIENCE_S = 60.0


class Caller:
    """A stream of /v1/completions that is left before its end. ``tokens`` are those read so far."""

    def __init__(self, url: str, body: dict[str, Any], name: str = "") -> None:
        """``name`` is what the client calls the request."""
        at = urlsplit(url)
        self._headers = {"content-type": "application/json"} | ({"x-request-id": name} if name else {})
        self.body = {"return_token_ids": True, "stream": True, "ignore_eos": True, **body}
        self.tokens: list[int] = []
        self.finished = False
        self.request = ""  # the router's id, once something has come
        self.closed_at = 0.0
        self._connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=PATIENCE_S)
        self._reply: http.client.HTTPResponse | None = None
        self._connection.connect()
        self._socket: socket.socket = self._connection.sock

    def send(self) -> None:
        sent = json.dumps(self.body)
        self._connection.request("POST", "/v1/completions", sent, self._headers)

    def send_part(self, share: float) -> None:
        """Only that share of the request's bytes, 0 to 1, and never all of them."""
        sent = json.dumps(self.body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(sent)}\r\n\r\n".encode()
        whole = head + sent
        self._socket.sendall(whole[: max(1, min(len(whole) - 1, int(share * len(whole))))])

    def read(self, count: int) -> None:
        """Until ``count`` tokens have come, or the end."""
        if self._reply is None:
            self._reply = self._connection.getresponse()
            assert self._reply.status == 200, self._reply.read()
        for choice in self._choices(self._reply):
            self.tokens += choice.get("token_ids") or []
            self.finished = self.finished or choice["finish_reason"] is not None
            if len(self.tokens) >= count:
                return
        assert self.finished, "the stream broke off"

    def hang_up(self, *, hard: bool) -> None:
        """Close the connection; ``hard``: with a reset instead of a goodbye."""
        if hard:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.closed_at = time.monotonic()
        if self._reply is not None:
            self._reply.close()
        self._connection.close()

    @property
    def seed(self) -> int:
        seed: int = self.body["seed"]
        return seed

    def _choices(self, reply: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        for line in reply:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                self.request = event["id"].removeprefix("cmpl-")
                yield from event["choices"]


@dataclass(slots=True)
class After:
    """What followed a client's leaving. Seconds; None: it did not happen."""

    request: str | None = None  # None: the router never made one
    noticed_s: float | None = None  # from the client's close to the router's first cancel
    steps: int = 0  # with a token of it, begun before the node knew or not, told after the cancel
    stopped_s: float = 0.0  # from the cancel to the last of those
    pages_s: float | None = None  # from the cancel until every node it went to had its pages back
    wasted: int = 0  # tokens
    kept: int = 0  # leases that outlived the cancel
    nodes: set[str] = field(default_factory=set)  # that were told to cancel
    lines: list[Line] = field(default_factory=list)  # all that the trace has of it


def aftermath(trace: Trace, callers: Sequence[Caller]) -> list[After]:
    """For each caller, by the router's id, or by its seed if it has read nothing: then no other may have it.

    The clock of a node that was made to stand still starts when it went on.
    """
    trace.read()
    by_request: dict[str, list[Line]] = defaultdict(list)
    requests: dict[int, str] = {}
    transfers: dict[str, str] = {}
    for line in trace.lines:
        if line.kind == "open":
            requests.setdefault(line.facts["seed"], line.facts["request"])
        if line.kind in ("reserve", "reserved"):
            transfers[line.facts["transfer"]] = line.facts["request"]
        if line.kind == "tokens":
            for request in {item[0] for item in line.facts["items"]}:
                by_request[request].append(line)
        elif request := line.facts.get("request") or transfers.get(line.facts.get("transfer", "")):
            by_request[request].append(line)
    found = []
    for caller in callers:
        request = caller.request or requests.get(caller.seed)
        found.append(After() if request is None else _after(caller, request, by_request[request]))
    return found


def _after(caller: Caller, request: str, lines: list[Line]) -> After:
    out = After(request, lines=lines)
    computed = [
        i for line in lines if line.kind == "tokens" for r, _, _, i in line.facts["items"] if r == request
    ]
    out.wasted = max(0, max(computed, default=-1) + 1 - len(caller.tokens))
    cancels = [line for line in lines if line.kind == "cancel"]
    if not cancels:
        return out
    out.noticed_s = cancels[0].at - caller.closed_at
    out.nodes = {line.facts["node"] for line in cancels}
    since = max([cancels[0].at, *(line.at for line in lines if line.kind == "go")])
    late = [line for line in lines if line.kind == "tokens" and line.at > since]
    out.steps, out.stopped_s = len(late), max((line.at - since for line in late), default=0.0)
    gone = [line for line in lines if line.kind == "gone"]
    out.kept = sum(line.facts["kept"] for line in gone)
    if {line.where for line in gone} >= out.nodes:
        out.pages_s = max(0.0, *(line.at - since for line in gone))
    return out
