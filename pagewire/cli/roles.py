"""The programs by name, and their options as JSON. Imports a program only when it is about to run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from pagewire import codec
from pagewire.messages import DECODE, PREFILL, ROUTER
from pagewire.node_options import NodeOptions
from router.options import RouterOptions

Options = NodeOptions | RouterOptions


def to_json(options: Options) -> str:
    """``options`` as one line."""
    return json.dumps(asdict(options))


def from_json(role: str, line: bytes | str, *, status_fd: int) -> Options:
    """What ``to_json`` wrote, with ``status_fd`` filled in."""
    made: Options = codec.build(RouterOptions if role == ROUTER else NodeOptions, json.loads(line))
    return replace(made, status_fd=status_fd)


def run(options: Options) -> None:
    """Be that program until SIGTERM. Raises PagewireError if it cannot start."""
    if isinstance(options, RouterOptions):
        import router.main

        router.main.run(options)
    elif options.flexible:
        import pagewire.cli.worker

        pagewire.cli.worker.run(options)
    elif options.role == PREFILL:
        import prefill_node.main

        prefill_node.main.run(options)
    else:
        assert options.role == DECODE
        import decode_node.main

        decode_node.main.run(options)
