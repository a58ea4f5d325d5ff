"""How fast a node is, as it tells routers in ``Load.gauges``: each field is a gauge of that name.

Knows names and milliseconds; measures nothing (``pagewire.pace`` does) and predicts nothing
(``router.cost``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Rates:
    """The defaults are for before anything was measured: about a small model on two cores.

    A step that reads takes ``read_step_ms``, ``read_token_ms`` a new token, and ``read_context_ms`` for each
    new token and 1,000 tokens before it. One that writes takes ``write_step_ms`` and ``write_row_ms`` a
    sequence. A handoff adds ``handoff_ms``, and ``handoff_mb_ms`` a MB where that is longer than the reading.
    """

    read_step_ms: float = 5.0
    read_token_ms: float = 1.0
    read_context_ms: float = 0.1
    write_step_ms: float = 8.0
    write_row_ms: float = 1.0
    handoff_ms: float = 5.0
    handoff_mb_ms: float = 1.0


NAMES = tuple(field.name for field in fields(Rates))
_MOST_MS = 1e6
READING, WRITING, HANDING = NAMES[:3], NAMES[3:5], NAMES[5:]


def told(gauges: Mapping[str, float]) -> dict[str, float]:
    """Of ``gauges``, the rates, as far as they can be true."""
    return {name: gauges[name] for name in NAMES if 0 <= gauges.get(name, -1.0) < _MOST_MS}
