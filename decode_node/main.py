"""The decode node as a program: wires engine, receiver and mailbox together."""

from __future__ import annotations

from functools import partial

from decode_node.role import DecodeRole
from kv_transfer import Limits, Receiver, open_receiver
from pagewire.engine.build import Built
from pagewire.engine.staging import handoff_pages
from pagewire.messages import DECODE, Epoch
from pagewire.node import OpenRole, run_node
from pagewire.node_options import NodeOptions

AT_A_GPU = Limits(max_open=64, frame_bytes=8 << 20, credit_bytes=64 << 20, inflight_bytes=768 << 20)
"""Few large frames where KV passes through pinned memory: beside a GPU each costs the host some 170 us,
whatever its size (docs/benchmarks/gpu.md)."""


def run(options: NodeOptions) -> None:
    """Serve until SIGTERM. Raises ConfigError if it cannot start."""
    run_node(options, {DECODE: open_role})


def open_role(options: NodeOptions, built: Built, epoch: Epoch, secret: bytes | None) -> OpenRole:
    pages = handoff_pages(built.engine.runner.cache)
    borrower = pages.borrower() if options.direct_handoff else None
    trusted = options.trusted_network
    listener = open_receiver(options.handoff, secret, pages.landing, borrower, trusted=trusted)
    large = built.device.type == "cuda" and not options.direct_handoff
    receiver = Receiver(listener, pages, built.layout, epoch, AT_A_GPU if large else None)
    return OpenRole(receiver, partial(DecodeRole, receiver=receiver), receiver.address)
