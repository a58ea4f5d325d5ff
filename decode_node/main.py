"""The decode node as a program: wires engine, receiver and mailbox together."""

from __future__ import annotations

from decode_node.loop import DecodeNode
from kv_transfer import Receiver, open_receiver
from pagewire.engine.build import Built
from pagewire.engine.staging import handoff_pages
from pagewire.messages import Epoch
from pagewire.node import run_node
from pagewire.node_options import NodeOptions


def run(options: NodeOptions) -> None:
    """Serve until SIGTERM. Raises ConfigError if it cannot start."""
    run_node(options, _listen, DecodeNode)


def _listen(options: NodeOptions, built: Built, epoch: Epoch, secret: bytes | None) -> tuple[Receiver, str]:
    pages = handoff_pages(built.engine.runner.cache)
    listener = open_receiver(options.handoff, secret, pages.landing, pages.borrower())
    receiver = Receiver(listener, pages, built.layout, epoch)
    return receiver, receiver.address
