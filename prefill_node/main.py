"""The prefill node as a program: wires engine, sender and mailbox together."""

from __future__ import annotations

from kv_transfer import Sender, open_sender
from pagewire.engine.build import Built
from pagewire.engine.staging import handoff_pages
from pagewire.messages import Epoch
from pagewire.node import run_node
from pagewire.node_options import NodeOptions
from prefill_node.loop import PrefillNode


def run(options: NodeOptions) -> None:
    """Serve until SIGTERM. Raises ConfigError if it cannot start."""
    run_node(options, _dial, PrefillNode)


def _dial(options: NodeOptions, built: Built, epoch: Epoch, secret: bytes | None) -> tuple[Sender, str]:
    pages = handoff_pages(built.engine.runner.cache)
    lender = pages.lender() if options.direct_handoff else None
    return Sender(open_sender(secret, lender), pages, built.layout, epoch), ""
