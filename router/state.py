"""What there is to say of nodes: plain data, ready for JSON. Knows the fleet; knows no request."""

from __future__ import annotations

from typing import Any

from router.service import Service


def nodes_view(service: Service) -> list[dict[str, Any]]:
    now = service.clock()
    return [
        {
            "node": node.hello.node,
            "role": node.role,
            "roles": node.hello.roles or [node.role],
            "draining": node.draining,
            "pid": node.hello.pid,
            "epoch": node.hello.epoch,
            "version": node.hello.version,
            "max_model_len": node.hello.max_model_len,
            "page_size": node.hello.page_size,
            "topology": node.hello.topology,
            "suspect": node.suspect,
            "silent_s": round(now - node.heard, 3),
            "load": {
                "waiting": node.load.waiting,
                "running": node.load.running,
                "queued_tokens": node.load.queued_tokens,
                "pages_free": node.load.pages_free,
                "pages_total": node.load.pages_total,
                "transfers": node.load.transfers,
                "steps": node.load.steps,
                "gauges": node.load.gauges,
            },
        }
        for node in service.fleet.nodes.values()
    ]
