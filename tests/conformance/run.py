"""Run the conformance table's checks, and write it into ``docs/api.md``.

    PYTHONPATH=.:tests:tests/e2e python -m conformance.run

Starts the demo model. Knows where the table stands; the rows are in the modules beside it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from conformance import (  # noqa: F401
    chat_rows,
    completion_rows,
    error_rows,
    forced_rows,
    response_rows,
    stream_rows,
    structured_rows,
    tool_rows,
    vllm_rows,
)
from conformance.rows import ROWS, Row, Server, name_of, table

DOCS = Path(__file__).parents[2] / "docs" / "api.md"
FAULTS = (
    AssertionError, AttributeError, LookupError, TypeError, ValueError, httpx.HTTPError, openai.OpenAIError,
    pytest.fail.Exception,
)  # fmt: skip
BEGIN, END = "<!-- conformance: begin -->\n", "<!-- conformance: end -->\n"


def faults(url: str) -> dict[str, str]:
    """What is wrong with each row, by its name; "" if nothing is."""
    server = Server(url)
    try:
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(map(name_of, ROWS), pool.map(lambda row: _fault(row, server), ROWS), strict=True))
    finally:
        server.close()


def _fault(row: Row, server: Server) -> str:
    try:
        row.check(server)
    except FAULTS as error:
        return f"{type(error).__name__}: {error}"
    return ""


def documented() -> str:
    """The table as it stands in the docs."""
    return DOCS.read_text().partition(BEGIN)[2].partition(END)[0]


def written(found: dict[str, str]) -> str:
    return table({name: "fail" if fault else "pass" for name, fault in found.items()})


def main() -> None:
    from cluster import Cluster

    with Cluster("demo") as running:
        found = faults(running.url)
    before, _, rest = DOCS.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCS.write_text(f"{before}{BEGIN}{written(found)}{END}{after}")
    for name, fault in found.items():
        if fault:
            print(f"{name}\n    {fault[:600]}")
    print(f"{sum(not fault for fault in found.values())} of {len(found)} rows pass")


if __name__ == "__main__":
    main()
