from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.page_chain import LABEL_BYTES, Labels, extend_chain, pack, unpack

PROMPT = list(range(100, 118))  # four full pages of 4 and a partial one


def test_nothing_is_hashed_twice() -> None:
    hashes: list[bytes] = []
    extend_chain(hashes, PROMPT, "", 4, 2)
    poisoned = [b"kept", b"as it is"]
    extend_chain(poisoned, PROMPT, "", 4, 2)
    assert poisoned == [b"kept", b"as it is"]
    assert len(hashes) == 2


def test_the_chain_is_the_documented_hash() -> None:
    from hashlib import blake2b

    hashes: list[bytes] = []
    extend_chain(hashes, [1, 2, 3, 4], "salt", 2, 2)
    parent = blake2b(b"2:salt", digest_size=20).digest()
    for page in ([1, 2], [3, 4]):
        raw = b"".join(token.to_bytes(4, "little") for token in page)
        parent = blake2b(parent + raw, digest_size=20).digest()
    assert hashes[-1] == parent


def test_page_size_is_part_of_the_root() -> None:
    small: list[bytes] = []
    large: list[bytes] = []
    extend_chain(small, [1, 2], "", 1, 1)
    extend_chain(large, [1, 2], "", 2, 1)
    assert small[0] != large[0]


@settings(deadline=None, max_examples=100)
@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=40), cuts=st.lists(st.integers(0, 10)))
def test_a_chain_does_not_depend_on_how_it_was_extended(tokens: list[int], cuts: list[int]) -> None:
    full = len(tokens) // 4
    at_once: list[bytes] = []
    extend_chain(at_once, tokens, "s", 4, full)
    piecewise: list[bytes] = []
    for count in [*cuts, full]:
        extend_chain(piecewise, tokens, "s", 4, min(count, full))
    assert piecewise == at_once


def test_labels_are_the_heads_of_the_hashes() -> None:
    hashes: list[bytes] = []
    extend_chain(hashes, PROMPT, "s", 4, 4)
    assert list(Labels(PROMPT, "s", 4)) == [h[:LABEL_BYTES] for h in hashes]
    assert list(Labels(PROMPT[:3], "s", 4)) == []


def test_only_what_is_read_is_hashed() -> None:
    long = Labels(list(range(4096)), "", 4)
    next(iter(long))
    assert len(long._hashes) < 100


@given(st.lists(st.binary(min_size=LABEL_BYTES, max_size=20), max_size=9), st.integers(0, LABEL_BYTES - 1))
def test_what_is_packed_comes_out_again_without_a_torn_end(hashes: list[bytes], torn: int) -> None:
    assert list(unpack(pack(hashes) + b"x" * torn)) == [h[:LABEL_BYTES] for h in hashes]
