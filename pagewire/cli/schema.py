"""The schema of this tree's messages and frames: ``python -m pagewire.cli.schema`` writes it to
``pagewire/schemas/``.

Knows all codecs; decides nothing (``pagewire.schema`` does). Nothing runs it while pagewire serves. What the
release before could not live with is printed, and then nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pagewire.schemas
from kv_transfer import wire
from pagewire.mailbox import NODE_TO_NODE, TO_NODE, TO_ROUTER
from pagewire.schema import Schema, broken, released, schema_of
from pagewire.versions import LEVEL, release_of


def spoken() -> Schema:
    """What the processes of this tree say to each other."""
    directions = {"to_router": TO_ROUTER, "to_node": TO_NODE, "node_to_node": NODE_TO_NODE}
    return schema_of(release_of(LEVEL), (wire.MAJOR, wire.MINOR), directions, wire.TYPES)


def main() -> None:
    last, now = released(LEVEL - 1), spoken()
    if last is not None and (reasons := broken(last, now)):
        print(f"{now.version} does not go with {last.version}:", *reasons, sep="\n  ", file=sys.stderr)
        raise SystemExit(1)
    path = Path(pagewire.schemas.__file__).with_name(f"{now.version}.json")
    path.write_text(now.to_json())
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
