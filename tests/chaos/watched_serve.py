"""``pagewire`` whose children are watched: ``python watched_serve.py FOLDER serve ...``. For tests only."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pagewire.cli import local
from pagewire.cli.children import ChildSpec
from pagewire.cli.main import main
from pagewire.cli.roles import Options

CHILD = Path(__file__).with_name("watched_child.py")


def watch(folder: str) -> None:
    """Let ``local`` start ``watched_child`` in the place of ``pagewire.cli.child``."""
    plain = local._spec

    def watched(role: str, name: str, options: Options, **more: Any) -> ChildSpec:
        spec = plain(role, name, options, **more)
        return replace(spec, argv=(sys.executable, str(CHILD), folder, role, name))

    local._spec = watched


if __name__ == "__main__":
    watch(sys.argv.pop(1))
    main()
