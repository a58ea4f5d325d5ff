from __future__ import annotations

from pathlib import Path

from pagewire.cli.reference import page


def test_the_page_in_docs_is_the_one_that_the_commands_write() -> None:
    # If not: python -m pagewire.cli.reference > docs/cli.md
    assert (Path(__file__).resolve().parents[2] / "docs/cli.md").read_text() == page()
