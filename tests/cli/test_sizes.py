from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.cli.sizes import format_size, parse_size
from pagewire.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 << 20),
        ("1GiB", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("2g", 2 << 30),
        ("64K", 64 << 10),
        ("1GB", 1_000_000_000),
        ("1 tib", 1 << 40),
        ("123456", 123456),
        ("4096B", 4096),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1GiB", "1 PiB", "1.GiB", "1iB", "0", "0.1B", "1GiBB", "1_000", "²"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"size|memory"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1 << 30, "1 GiB"), (3 << 29, "1.5 GiB"), (5 << 50, "5120 TiB")],
)
def test_a_size_is_written(size: int, text: str) -> None:
    assert format_size(size) == text


@settings(deadline=None)
@given(st.integers(1, 1 << 50))
def test_what_is_written_can_be_read_to_one_decimal(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.05)
