"""What nodes of the minor version before ours must not be sent: they would drop it and answer something else.

Pure. Knows versions and schemas; knows no request that runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from pagewire.messages import PrefillRequest
from pagewire.schema import Schema, beyond, released
from pagewire.versions import LEVEL, release_of
from router.fleet import Node

TOO_OLD = "node_too_old"  # the code of an attempt that was not sent for this reason


def too_new(message: PrefillRequest, nodes: Iterable[Node | None], last: Schema | None = None) -> str:
    """What ``message`` says that one of ``nodes`` has no word for, as a sentence; "" for nothing. ``last`` is
    the schema of the version before ours, by default the one that is kept."""
    for node in nodes:
        if node is None or node.level != LEVEL - 1:
            continue
        schema = last or released(LEVEL - 1)
        if schema is not None and (name := beyond(message, schema.classes)):
            return f"{name} needs nodes of version {release_of(LEVEL)}, and {node.hello.node} is older"
    return ""
