from __future__ import annotations

import pytest
from sequences import sequence

from pagewire.engine.batch import build
from pagewire.engine.pages import PageLease
from pagewire.engine.scheduler import Work


def work(tokens: list[int], pages: list[int], start: int, end: int, scored: bool = False) -> Work:
    seq = sequence(tokens, prompt_logprobs=0 if scored else None)
    seq.lease, seq.num_computed = PageLease(pages), start
    return Work(seq, start, end)


# Pages of 4: a decode at position 9 on pages 7, 2, 5; a chunk of a prompt; a prompt's last chunk.
DECODE = work(list(range(100, 110)), [7, 2, 5], 9, 10)
CHUNK = work(list(range(200, 230)), [1, 3], 2, 7)
LAST = work(list(range(300, 306)), [9, 8], 4, 6)


def test_rows_lie_sequence_after_sequence() -> None:
    batch = build([DECODE, CHUNK, LAST], 4)
    assert batch.token_ids.tolist() == [109, 202, 203, 204, 205, 206, 304, 305]
    assert batch.positions.tolist() == [9, 2, 3, 4, 5, 6, 4, 5]
    assert batch.query_starts.tolist() == [0, 1, 6, 8]


def test_a_slot_is_page_times_size_plus_offset() -> None:
    batch = build([DECODE, CHUNK, LAST], 4)
    assert batch.slots.tolist() == [21, 6, 7, 12, 13, 14, 32, 33]


def test_a_context_ends_with_this_step() -> None:
    assert build([DECODE, CHUNK, LAST], 4).context_lens.tolist() == [10, 7, 6]


def test_page_tables_are_padded_to_the_longest_context() -> None:
    assert build([DECODE, CHUNK, LAST], 4).page_tables.tolist() == [[7, 2, 5], [1, 3, 0], [9, 8, 0]]


def test_pages_behind_the_context_are_left_out() -> None:
    assert build([work([1] * 8, [4, 6], 0, 3)], 4).page_tables.tolist() == [[4]]


def test_only_rows_that_sample_have_logits() -> None:
    assert build([DECODE, CHUNK, LAST], 4).logit_rows.tolist() == [0, 7]


def test_a_scored_prompt_has_logits_in_every_row() -> None:
    scored = work([1] * 9, [4, 6], 0, 3, scored=True)
    assert build([DECODE, scored, LAST], 4).logit_rows.tolist() == [0, 1, 2, 3, 5]


def test_a_step_without_logits_has_an_empty_list_of_rows() -> None:
    assert build([CHUNK], 4).logit_rows.shape == (0,)


def test_all_arrays_are_int64() -> None:
    assert {str(array.dtype) for array in build([DECODE, CHUNK], 4)} == {"int64"}


def test_a_lease_that_does_not_cover_the_work_is_refused() -> None:
    with pytest.raises(AssertionError):
        build([work([1] * 12, [1, 2], 0, 9)], 4)
