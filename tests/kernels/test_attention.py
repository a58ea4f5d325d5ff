"""Paged attention on CPU: right against the reference, and each row's bits its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from attention_world import World, make_world, quantise
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention import AttentionMeta, paged_attention, paged_attention_reference

HEADS = [(4, 4), (9, 3), (8, 2), (7, 1)]  # Hq, Hkv: groups of 1, 3, 4, 7


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(q: torch.Tensor, world: World, meta: AttentionMeta, window: int | None = None) -> torch.Tensor:
    return paged_attention(q, world.kv_layer, meta, q.shape[2] ** -0.5, window)


def chunked(q: torch.Tensor, world: World, cut: int, window: int | None = None) -> torch.Tensor:
    """All rows of one prompt, ``cut`` at a time."""
    ends = [*range(cut, len(q), cut), len(q)]
    starts = [0, *ends[:-1]]
    parts = [run(q[a:b], world, world.meta([b - a], [b]), window) for a, b in zip(starts, ends, strict=True)]
    return torch.cat(parts)


@pytest.mark.parametrize("window", [None, 1, 100, 400])
@pytest.mark.parametrize("page_size", [1, 16, 48, 64])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("dim", [16, 64, 128])
def test_agrees_with_the_reference(
    heads: tuple[int, int], dim: int, page_size: int, window: int | None
) -> None:
    world = make_world([300, 130, 1, 257, 128, 70], page_size, heads[1], dim)
    meta = world.meta([100, 1, 1, 1, 1, 70])
    q = torch.randn(meta.query_starts[-1], heads[0], dim)
    want = paged_attention_reference(q, world.kv_layer, meta, dim**-0.5, window)
    torch.testing.assert_close(run(q, world, meta, window), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    world = make_world([200, 30], 16, 3, 64)
    meta, kv_layer = world.meta([50, 1]), world.kv_layer.to(dtype)
    q = torch.randn(51, 9, 64).to(dtype)
    got = paged_attention(q, kv_layer, meta, 0.125, None)
    assert got.dtype == dtype
    want = paged_attention_reference(q.float(), kv_layer.float(), meta, 0.125, None)
    torch.testing.assert_close(got, want.to(dtype), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("window", [None, 200])
@pytest.mark.parametrize(("heads", "dim"), [((9, 3), 64), ((4, 4), 16), ((7, 1), 32)], ids=str)
def test_bits_do_not_depend_on_chunks_pages_or_threads(
    heads: tuple[int, int], dim: int, window: int | None
) -> None:
    length = 1500 if dim == 64 else 600
    q = torch.randn(length, heads[0], dim)
    whole = chunked(q, make_world([length], 16, heads[1], dim), length, window)
    for cut, page_size, threads in [(7, 64, 1), (16, 16, 1), (100, 1, 1), (256, 48, 2), (333, 16, 2)]:
        torch.set_num_threads(threads)
        got = chunked(q, make_world([length], page_size, heads[1], dim), cut, window)
        assert torch.equal(got, whole), (cut, page_size, threads)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_row_at_a_time_gives_the_bits_of_the_prompt(window: int | None, threads: int) -> None:
    q, world = torch.randn(300, 9, 64), make_world([300], 16, 3, 64)
    whole = chunked(q, world, 300, window)
    torch.set_num_threads(threads)
    assert torch.equal(chunked(q, world, 1, window), whole)


@settings(deadline=None, max_examples=20)
@given(
    contexts=st.lists(st.integers(1, 700), max_size=6),
    prompt_rows=st.sampled_from([1, 2, 40]),
    own=st.tuples(st.integers(1, 600), st.sampled_from([1, 5, 64, 130])),
    window=st.sampled_from([None, 150]),
    place=st.integers(0, 6),
    threads=st.integers(1, 2),
)
def test_bits_do_not_depend_on_neighbours(
    contexts: list[int],
    prompt_rows: int,
    own: tuple[int, int],
    window: int | None,
    place: int,
    threads: int,
) -> None:
    context, rows = own[0], min(own)
    place = min(place, len(contexts))
    q = torch.randn(rows, 6, 32)
    torch.set_num_threads(1)
    alone = make_world([context], 16, 2, 32, seeds=[99])
    want = run(q, alone, alone.meta([rows]), window)

    everyone = [*contexts[:place], context, *contexts[place:]]
    seeds = [99 if s == place else s for s in range(len(everyone))]
    world = make_world(everyone, 16, 2, 32, seeds)
    counts = [rows if s == place else min(prompt_rows, c) for s, c in enumerate(everyone)]
    start = sum(counts[:place])
    queries = torch.randn(sum(counts), 6, 32)
    queries[start : start + rows] = q
    torch.set_num_threads(threads)
    assert torch.equal(run(queries, world, world.meta(counts), window)[start : start + rows], want)


def test_many_decode_rows_equal_each_alone() -> None:
    contexts = [1, 127, 128, 129, 500, 640, 900, 1024, 1025, 1300] * 3
    world = make_world(contexts, 16, 3, 64)
    q = torch.randn(len(contexts), 9, 64)
    together = run(q, world, world.meta([1] * len(contexts)))
    for s, context in enumerate(contexts):
        meta = AttentionMeta.plan([0, 1], [context], world.page_tables[s : s + 1], 16)
        assert torch.equal(run(q[s : s + 1], world, meta)[0], together[s])


def test_layers_share_one_plan() -> None:
    world = make_world([40], 16, 3, 64)
    meta, made = world.meta([1]), []
    for _ in range(3):
        run(torch.randn(1, 9, 64), world, meta)
        meta.once("count", lambda: made.append(1))
    assert made == [1]


def test_a_step_without_rows() -> None:
    world = make_world([5], 16, 3, 64)
    meta = AttentionMeta.plan([0], [], torch.zeros(0, 1, dtype=torch.int64), 16)
    assert run(torch.randn(0, 9, 64), world, meta).shape == (0, 9, 64)


def test_a_captured_step_is_computed_without_a_graph_too() -> None:
    """By contexts that it reads on the host; a row that stands for none is zeros."""
    world, q = make_world([200, 5, 130], 16, 3, 64), torch.randn(4, 9, 64)
    order = [2, 0, 0, 1]
    lens = torch.tensor([130, 0, 200, 5], dtype=torch.int32)
    meta = AttentionMeta.captured(lens, world.page_tables[order].int(), 16, 400)
    planned = AttentionMeta.plan([0, 1, 2, 3], [130, 200, 5], world.page_tables[[2, 0, 1]], 16)
    got, rows = run(q, world, meta), [0, 2, 3]
    assert torch.equal(got[rows], run(q[rows], world, planned))
    assert not got[1].any()


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_codes_stand_for_their_number_times_the_scale(dtype: torch.dtype, per_token: bool) -> None:
    world, q = make_world([200, 30], 16, 3, 64), torch.randn(51, 9, 64)
    meta, (codes, scales) = world.meta([50, 1]), quantise(world, dtype, per_token)
    got = paged_attention(q, codes, meta, 0.125, 70, scales)
    want = paged_attention_reference(q.double(), world.kv_layer.double(), meta, 0.125, 70)
    error = (got - want).norm() / want.norm()
    assert 0 < error < (0.02 if dtype == torch.int8 else 0.06)
