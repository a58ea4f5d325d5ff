"""The decode node as a program: wires engine, receiver and mailbox together."""

from __future__ import annotations

from decode_node.loop import DecodeNode
from kv_transfer import Limits, Receiver, open_receiver
from pagewire.engine.build import Built
from pagewire.engine.staging import handoff_pages
from pagewire.messages import Epoch
from pagewire.node import run_node
from pagewire.node_options import NodeOptions

AT_A_GPU = Limits(max_open=64, frame_bytes=8 << 20, credit_bytes=64 << 20, inflight_bytes=768 << 20)
"""Few large frames where KV passes through pinned memory: beside a GPU each costs the host some 170 us,
whatever its size (docs/benchmarks/gpu.md)."""


def run(options: NodeOptions) -> None:
    """Serve until SIGTERM. Raises ConfigError if it cannot start."""
    run_node(options, _listen, DecodeNode)


def _listen(options: NodeOptions, built: Built, epoch: Epoch, secret: bytes | None) -> tuple[Receiver, str]:
    pages = handoff_pages(built.engine.runner.cache)
    borrower = pages.borrower() if options.direct_handoff else None
    listener = open_receiver(options.handoff, secret, pages.landing, borrower)
    large = built.device.type == "cuda" and not options.direct_handoff
    receiver = Receiver(listener, pages, built.layout, epoch, AT_A_GPU if large else None)
    return receiver, receiver.address
