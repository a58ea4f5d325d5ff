"""A node with both roles as a program: what prefill and decode nodes are made of, around one engine.

It offers one role at a time, and can be told to offer the other (``messages.TakeRole``). What it has in hand
it ends as what it was begun.
"""

from __future__ import annotations

import decode_node.main
import prefill_node.main
from pagewire.messages import DECODE, PREFILL
from pagewire.node import run_node
from pagewire.node_options import NodeOptions


def run(options: NodeOptions) -> None:
    """Serve until SIGTERM. Raises ConfigError if it cannot start."""
    run_node(options, {PREFILL: prefill_node.main.open_role, DECODE: decode_node.main.open_role})
