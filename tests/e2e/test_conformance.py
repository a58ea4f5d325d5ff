"""What docs/api.md says of each field holds, row by row, and the table there is the one that was run.

After a change of rows: PYTHONPATH=.:tests:tests/e2e python -m conformance.run
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import Cluster
from conformance.rows import ROWS, name_of
from conformance.run import documented, faults, written

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, str]]:
    with Cluster("demo") as running:
        yield faults(running.url)
        running.until_nothing_is_held()


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({name_of(row) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", [name_of(row) for row in ROWS])
def test_row(found: dict[str, str], name: str) -> None:
    assert found[name] == ""


def test_the_table_in_the_docs_is_this_one(found: dict[str, str]) -> None:
    assert documented() == written(found)
