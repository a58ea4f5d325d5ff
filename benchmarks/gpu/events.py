"""What a section's process says to the one that started it: one JSON object a line in a file, flushed, so
that what was said stands whatever happens next. Knows no case and no process.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, TextIO

Event = dict[str, Any]


class Writer:
    """Appends to ``path``, or prints if there is none."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO = path.open("a") if path else sys.stdout

    def __call__(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event} | _plain(fields)), file=self._file, flush=True)

    def stage(self, index: int, stage: str, kernel: str = "", shape: str = "") -> None:
        """What case ``index`` is about to do: if nothing follows, that is what ended the process."""
        self("stage", index=index, stage=stage, kernel=kernel, shape=shape)


class Reader:
    """What was appended since the last look; half a line waits for its other half."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def __call__(self) -> list[Event]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def _plain(value: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
