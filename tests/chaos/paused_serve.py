"""``pagewire serve`` whose children can be held at exact points (``paused_child.py``), for tests only.

    PAGEWIRE_CHAOS=FOLDER python paused_serve.py serve ...

Two things differ from the command that users run: the children's program, and that a child which a test kills
every few seconds does not count as one that cannot start.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.pop(0)

from pagewire.cli import local, main, restarts
from pagewire.cli.children import ChildSpec

_CHILD = str(Path(__file__).with_name("paused_child.py"))
_spec = local._spec


def spec(role: str, name: str, *args: Any, **more: Any) -> ChildSpec:
    return replace(_spec(role, name, *args, **more), argv=(sys.executable, _CHILD, role, name))


local._spec = spec
restarts.LONG_LIFE = 1.0

if __name__ == "__main__":
    main.main()
