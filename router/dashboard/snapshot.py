"""What the page shows of nodes, of the ways between them, and of requests: plain data, ready for JSON.

Pure: fleet, running requests and ended ones in, dictionaries out. No text of a prompt or an answer is looked
at, and no tenant is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pagewire.messages import DECODE, Load
from router.finished import Finished
from router.fleet import Node
from router.inflight import Inflight

ID_DIGITS = 8  # of a request's id, enough to find it in the log

Way = tuple[str, str]  # from where to where; the router is ""


def node_view(now: float, node: Node, before: Load | None, seconds: float) -> dict[str, Any]:
    """One card. ``before`` is what the node said ``seconds`` ago, if it was there."""
    load, gauges = node.load, node.load.gauges
    cached = gauges.get("pages_cached", 0)
    return {
        "node": node.hello.node,
        "role": node.role,
        "pid": node.hello.pid,
        "suspect": node.suspect,
        "silent_s": round(now - node.heard, 1),
        "pages": {
            "total": load.pages_total,
            "used": load.pages_total - load.pages_free,
            "cached": min(cached, load.pages_free),
            "size": node.hello.page_size,
        },
        "waiting": load.waiting,
        "running": load.running,
        "queued_tokens": load.queued_tokens,
        "transfers": load.transfers,
        "landing": gauges.get("landing", 0),
        "credit_bytes": gauges.get("transfer_credit_bytes", 0),
        "steps_rate": _rate(load.steps, before.steps if before else None, seconds),
        "bytes_rate": _rate(
            gauges.get("transfer_bytes", 0),
            before.gauges.get("transfer_bytes", 0) if before else None,
            seconds,
        ),
    }


def _rate(value: float, before: float | None, seconds: float) -> float:
    """None before, or more than now (another life of the node): nothing is known."""
    return 0.0 if before is None or value < before or seconds <= 0 else round((value - before) / seconds, 1)


def ways(running: Iterable[Inflight], ended: Iterable[Finished]) -> list[dict[str, Any]]:
    """How much is on each way now, and how much came through since the last look."""
    now, done, moved = Counter[Way](), Counter[Way](), Counter[Way]()
    for member in running:
        if (way := _way_of(member)) is not None:
            now[way] += 1
    for request in ended:
        way = ("", request.prefill_node)
        done[way] += bool(request.prefill_node)
        if request.handed_over:
            between = request.prefill_node, request.decode_node
            done[between] += 1
            moved[between] += request.handoff_bytes or 0
        done[request.decode_node, ""] += bool(request.decode_node) and request.longest_choice > 1
    return [
        {"from": way[0], "to": way[1], "now": now[way], "done": done[way], "bytes": moved[way]}
        for way in sorted({*now, *done})
        if now[way] or done[way]
    ]


def _way_of(member: Inflight) -> Way | None:
    """Where a running request is: on its way to be read, being handed over, or being written."""
    attempts = member.dispatch.pairs
    if not attempts:
        return None
    last = len(attempts) - 1
    prefill, decode = attempts[last].prefill.node, attempts[last].decode.node
    if member.first_at is None:
        return "", prefill
    if prefill != decode and (last, DECODE) not in member.timeline.parts:
        return prefill, decode
    return decode, ""


def row(request: Finished, now: float, unix: float) -> dict[str, Any]:
    """One line of the waterfall. ``unix`` is what the clock on the wall says at ``now``."""
    return {
        "id": request.request[:ID_DIGITS],
        "at": round(unix - (now - request.arrived), 3),
        "status": request.status,
        "finish": request.code or request.finish,
        "stream": request.about.stream,
        "prompt": request.prompt_tokens,
        "cached": request.cached_tokens,
        "output": request.completion_tokens,
        "attempts": request.attempts,
        "prefill_node": request.prefill_node,
        "decode_node": request.decode_node,
        "hidden_ms": request.hidden_ms,
        "exposed_ms": request.exposed_ms if request.handed_over else None,
        "bytes": request.handoff_bytes,
        "ttft_ms": _ms(request.first_s),
        "total_ms": _ms(request.ended_s),
        "segments": [
            {"name": s.name, "start_ms": _ms(s.start_s), "end_ms": _ms(s.end_s), "node": s.node}
            for s in request.segments()
        ],
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
