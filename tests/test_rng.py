"""Philox against its published vectors; draws that depend on (seed, choice, position) and nothing else."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.rng import Words, philox, uniform

MASK = (1 << 32) - 1


# Random123, tests/kat_vectors, the rows "philox4x32 10"
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK,) * 4, (MASK, MASK), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: Words, key: tuple[int, int], expected: Words) -> None:
    assert philox(counter, key) == expected


def test_uniform_is_the_top_53_bits_of_the_first_two_words() -> None:
    low, high, _, _ = philox((7, 0, 3, 0), (5, 0))
    assert uniform(5, 3, 7) == ((high << 32 | low) >> 11) / 2**53


def test_every_argument_has_its_own_place_in_counter_and_key() -> None:
    base = (11, 1, 9, 0)
    changed = [uniform(*base)]
    for i, widest in enumerate((1 << 63, 1 << 31, 1 << 63, 1 << 31)):
        for value in (base[i] + 1, base[i] | widest):
            changed.append(uniform(*base[:i], value, *base[i + 1 :]))
    assert len(set(changed)) == 9


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 15), st.integers(0, 2**40), st.integers(0, 3))
@settings(deadline=None)
def test_in_range_and_a_multiple_of_2_to_the_minus_53(
    seed: int, choice: int, position: int, lane: int
) -> None:
    u = uniform(seed, choice, position, lane)
    assert 0.0 <= u < 1.0
    assert (u * 2**53).is_integer()


@given(st.integers(-(2**63), -1))
@settings(deadline=None)
def test_a_negative_seed_is_its_twos_complement(seed: int) -> None:
    assert uniform(seed, 0, 1) == uniform(seed + 2**64, 0, 1)


def chi_square(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    return sum((c - mean) ** 2 / mean for c in counts)


@pytest.mark.parametrize("along", ["seed", "choice", "position", "lane"])
def test_uniform_along_each_argument(along: str) -> None:
    counts = [0] * 64
    for i in range(12_800):
        args = {"seed": 42, "choice": 0, "position": 0, "lane": 0} | {along: i}
        counts[int(uniform(**args) * 64)] += 1
    assert 20 < chi_square(counts) < 130  # 63 degrees of freedom: 99.9999% lie inside


def test_neighbouring_positions_are_not_correlated() -> None:
    counts = [0] * 64
    draws = [uniform(1, 0, p) for p in range(12_801)]
    for a, b in pairwise(draws):
        counts[int(a * 8) * 8 + int(b * 8)] += 1
    assert 20 < chi_square(counts) < 130


def test_loads_no_torch() -> None:
    code = "import sys, pagewire.rng, pagewire.sampling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
