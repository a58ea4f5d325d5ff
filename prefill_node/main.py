"""The prefill node as a program: wires engine, sender and mailbox together."""

from __future__ import annotations

from functools import partial

from kv_transfer import Sender, open_sender
from pagewire.engine.build import Built
from pagewire.engine.staging import handoff_pages
from pagewire.messages import PREFILL, Epoch
from pagewire.node import OpenRole, run_node
from pagewire.node_options import NodeOptions
from prefill_node.role import PrefillRole


def run(options: NodeOptions) -> None:
    """Serve until SIGTERM. Raises ConfigError if it cannot start."""
    run_node(options, {PREFILL: open_role})


def open_role(options: NodeOptions, built: Built, epoch: Epoch, secret: bytes | None) -> OpenRole:
    pages = handoff_pages(built.engine.runner.cache)
    lender = pages.lender() if options.direct_handoff else None
    dialer = open_sender(secret, lender, trusted=options.trusted_network)
    sender = Sender(dialer, pages, built.layout, epoch)
    return OpenRole(sender, partial(PrefillRole, sender=sender))
