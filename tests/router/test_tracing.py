from __future__ import annotations

import gzip
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest
from conftest import World
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from test_recorder import ENDED

from pagewire.errors import ConfigError
from router.finished import About, Finished
from router.tracing import Tracing, exporting

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
S = 10**9


def spans(request: Finished) -> dict[str, ReadableSpan]:
    """What is exported of one request that has just ended, at second 1,000 of the wall's clock."""
    exporter = InMemorySpanExporter()
    now = request.arrived + request.ended_s
    tracing = Tracing(SimpleSpanProcessor(exporter), lambda: now, lambda: 1000 * S)
    tracing.told(request)
    tracing.close()
    return {span.name.removeprefix("pagewire."): span for span in exporter.get_finished_spans()}


def times(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time / S, span.end_time / S


def test_children_lie_in_the_request_one_after_the_other() -> None:
    found = spans(ENDED)
    parent = found.pop("request")
    assert parent.kind == SpanKind.SERVER
    assert times(parent) == (996.5, 1000.0)
    assert {name: times(span) for name, span in found.items()} == {
        "queue": (996.5, pytest.approx(996.9)),
        "prefill": (pytest.approx(996.9), 997.5),
        "handoff": (997.5, 998.0),
        "decode": (998.0, 999.5),
    }
    assert {span.parent.span_id for span in found.values() if span.parent} == {parent.context.span_id}


def test_nodes_and_counts_are_attributes() -> None:
    found = spans(ENDED)
    assert found["prefill"].attributes == {"pagewire.node": "prefill-0", "pagewire.prompt_tokens": 9}
    assert (found["handoff"].attributes or {})["pagewire.handoff.bytes"] == 640
    assert (found["request"].attributes or {})["gen_ai.usage.output_tokens"] == 8


def test_a_clients_trace_goes_on() -> None:
    request = spans(replace(ENDED, about=About(traceparent=f"00-{TRACE}-{SPAN}-01")))["request"]
    assert request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, SPAN)


def test_a_trace_that_its_client_does_not_record_is_not_recorded_here() -> None:
    assert spans(replace(ENDED, about=About(traceparent=f"00-{TRACE}-{SPAN}-00"))) == {}


@pytest.mark.parametrize(
    "nonsense", ["", "x", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01" * 99, "\x1b[31m"]
)
def test_a_traceparent_that_is_none_begins_a_trace(nonsense: str) -> None:
    assert spans(replace(ENDED, about=About(traceparent=nonsense)))["request"].parent is None


def test_what_failed_is_an_error() -> None:
    found = spans(replace(ENDED, first_s=None, status=503, code="worker_lost", finish="error"))
    assert set(found) == {"request", "queue"}
    assert found["request"].status.status_code == StatusCode.ERROR


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(ConfigError):
        exporting("localhost:4318")


async def test_a_request_over_http_becomes_a_trace_of_its_client(world: World) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(exporter), world.service.clock)
    world.service.requests.recorder.observers.append(tracing.told)
    world.http.headers["traceparent"] = f"00-{TRACE}-{SPAN}-01"
    await world.chat("a secret", timing=True)
    found = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in found} == {TRACE}
    assert [span.name for span in found][-1] == "pagewire.request"
    assert "secret" not in "".join(span.to_json() for span in found)


class Collector(BaseHTTPRequestHandler):
    """Keeps what is posted to it."""

    posted: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        self.posted.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_collector_is_sent_the_spans_before_the_router_ends() -> None:
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracing = Tracing(exporting(f"http://127.0.0.1:{server.server_port}/"), time.monotonic)
        tracing.told(ENDED)
        tracing.close()
        server.shutdown()
    ((path, body),) = Collector.posted
    assert path == "/v1/traces"
    for name in (
        b"pagewire.request",
        b"pagewire.queue",
        b"pagewire.prefill",
        b"pagewire.handoff",
        b"pagewire.decode",
    ):
        assert name in gunzipped(body)


def gunzipped(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
