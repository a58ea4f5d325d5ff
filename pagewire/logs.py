"""How a process logs: one line a record on standard error, as text or as JSON.

Knows Python's logging and nothing of what is logged. Records carry facts beside their message (``event``).
No control character reaches the log, whoever wrote the text: a record is one line, and a terminal stays as it
is.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from pagewire.audit import clean

TEXT = "text"
JSON = "json"
LONGEST = 2000  # characters of a message

Fact = str | int | float | bool | None


def setup(level: str, log_format: str, process: str) -> None:
    """For the whole process, which people know as ``process``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(process) if log_format == JSON else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def event(log: logging.Logger, level: int, message: str, facts: dict[str, Fact]) -> None:
    """A record with ``facts``: fields of the JSON, ``name=value`` in text."""
    log.log(level, message, extra={"facts": facts})


def line(process: str, level: str, message: str, **more: Fact) -> str:
    """A JSON line of ``process`` now, for what does not come as a record."""
    return _line(datetime.now(UTC), process, level, message, more)


class JsonLines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        more: dict[str, Any] = {"logger": record.name, **_facts(record)}
        if record.exc_info:
            more["exception"] = self.formatException(record.exc_info)
        when = datetime.fromtimestamp(record.created, UTC)
        return _line(when, self._process, record.levelname.lower(), record.getMessage(), more)


class TextLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        known = {name: value for name, value in _facts(record).items() if value not in (None, "")}
        return clean(super().formatMessage(record) + "".join(f" {k}={v}" for k, v in known.items()), LONGEST)

    def formatException(self, ei: Any) -> str:
        return "\n".join(clean(text, LONGEST) for text in super().formatException(ei).splitlines())


def _facts(record: logging.LogRecord) -> dict[str, Fact]:
    facts: dict[str, Fact] = getattr(record, "facts", {})
    return facts


def _line(when: datetime, process: str, level: str, message: str, more: dict[str, Any]) -> str:
    """``json`` escapes all control characters below 0x20, and with ``ensure_ascii`` the others too."""
    start = {"time": when.isoformat(timespec="milliseconds"), "level": level, "process": process}
    return json.dumps({**start, "message": clean(message, LONGEST), **more})
