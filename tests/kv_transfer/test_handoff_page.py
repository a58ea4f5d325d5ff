"""``docs/handoff.md`` says what the code does."""

from __future__ import annotations

import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from kv_transfer import Limits, Timeouts, wire
from kv_transfer.protocol import RECEIVER, SENDER, diagram
from kv_transfer.transports.zeromq import DEAD_MS

PAGE = (Path(__file__).parents[2] / "docs" / "handoff.md").read_text()
TEXT = " ".join(PAGE.split())


@pytest.mark.parametrize("table", [SENDER, RECEIVER], ids=["sender", "receiver"])
def test_the_diagrams_are_those_of_the_tables(table) -> None:
    assert f"```mermaid\n{diagram(table)}```\n" in PAGE


def test_the_diagrams_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("kv_transfer", run_name="__main__")
    assert capsys.readouterr().out == f"{diagram(SENDER)}\n{diagram(RECEIVER)}"


@pytest.mark.parametrize(("number", "cls"), list(enumerate(wire.TYPES, start=1)))
def test_the_page_names_exactly_the_fields_of_each_header(number: int, cls: type) -> None:
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {cls.__name__.upper()} |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == str(number)
    assert cells[3] == ", ".join(f"`{f.name}`" for f in fields(cls))
    assert bool(cells[4]) == (cls in wire._WITH_BODY)


@pytest.mark.parametrize("numbers", [Limits(), Timeouts()], ids=["limits", "timeouts"])
def test_the_page_has_the_defaults(numbers: Limits | Timeouts) -> None:
    assert all(f"| `{f.name}` | {getattr(numbers, f.name)} |" in PAGE for f in fields(numbers))


@pytest.mark.parametrize(
    "words",
    [
        f"a preamble of {wire.PREAMBLE_BYTES} bytes",
        f"at most {wire.MAX_HEADER_BYTES} bytes, a body at most {wire.MAX_BODY_BYTES}",
        f"{wire.MAX_TOKENS} tokens",
        f"after about {DEAD_MS / 1000} s",
        f"magic, `{wire.MAGIC.decode()}`",
    ],
)
def test_the_page_has_the_caps(words: str) -> None:
    assert words in TEXT
