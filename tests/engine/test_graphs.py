"""The path of captured steps, with the step itself in place of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import run, workload
from tiny import model_folder

from pagewire.engine import chunk_graphs
from pagewire.engine.batch import Batch
from pagewire.engine.build import build_engine
from pagewire.engine.engine import Engine
from pagewire.engine.graphs import DecodeGraphs, ladder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny").path


def engine(folder: Path, *, captured: bool, ahead: bool = False, chunks: bool = False) -> Engine:
    built = build_engine(
        model_folder(folder),
        load_format="dummy",
        quantization="none",
        kv_cache_bytes=1 << 20,
        max_num_seqs=12,
        max_batch_tokens=120 if chunks else 512,
        async_scheduling=ahead,
    )
    if captured:
        built.engine.runner.capture(12, built.engine.config.max_model_len)
    if chunks:
        built.engine.runner.capture_chunks(120, 9, built.engine.config.max_model_len)
    return built.engine


@pytest.mark.parametrize("most", [1, 3, 8, 64, 100, 256, 300])
def test_the_ladder_holds_every_batch_and_pads_little(most: int) -> None:
    sizes = ladder(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    for rows in range(1, most + 1):
        size = min(size for size in sizes if size >= rows)
        assert size - rows <= max(1, 7, rows // 4)
        assert rows < 64 or size <= rows * 1.25


@pytest.mark.parametrize("ahead", [False, True])
def test_captured_steps_give_the_same_tokens(folder: Path, ahead: bool) -> None:
    some = engine(folder, captured=True, ahead=ahead)
    assert run(some, workload()) == run(engine(folder, captured=False), workload())


def test_most_decode_steps_are_replays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = []
    plain = DecodeGraphs.run

    def counted(self: DecodeGraphs, batch: Batch) -> torch.Tensor:
        replayed.append(len(batch.token_ids))
        return plain(self, batch)

    monkeypatch.setattr(DecodeGraphs, "run", counted)
    some = engine(folder, captured=True)
    run(some, workload())
    assert len(replayed) > some.steps / 2
    assert max(replayed) == 12


def decode_batch(contexts: list[int], pages_each: int) -> Batch:
    rows = len(contexts)
    tables = np.arange(rows * pages_each, dtype=np.int64).reshape(rows, pages_each)
    ends, all_rows = np.array(contexts), np.arange(rows, dtype=np.int64)
    slots = tables[all_rows, (ends - 1) // 16] * 16 + (ends - 1) % 16
    return Batch(all_rows + 3, ends - 1, slots, np.arange(rows + 1), ends, tables, all_rows)


def test_rows_that_stand_for_nobody_write_nothing(folder: Path) -> None:
    runner = engine(folder, captured=True).runner
    before = runner.cache.pages.clone()
    batch = decode_batch([5, 20, 33], 3)
    runner.forward(batch)
    changed = (runner.cache.pages != before).any(dim=(0, 1, 4, 5)).flatten().nonzero().flatten()
    assert sorted(changed.tolist()) == sorted(batch.slots.tolist())


def test_a_larger_step_leaves_nothing_behind_for_a_smaller_one(folder: Path) -> None:
    fresh, used = engine(folder, captured=True).runner, engine(folder, captured=True).runner
    used.forward(decode_batch([40] * 12, 3))
    used.cache.pages.copy_(fresh.cache.pages)
    small = decode_batch([5, 20, 33], 3)
    assert torch.equal(fresh.forward(small), used.forward(small))


def test_what_was_not_captured_is_computed_as_it_is(folder: Path) -> None:
    graphs = engine(folder, captured=True).runner._graphs
    assert graphs is not None
    assert graphs.fits(decode_batch([5, 6], 1))
    assert not graphs.fits(decode_batch([5] * 13, 1)), "more rows"
    assert not graphs.fits(decode_batch([5], 40)), "a wider page table"
    chunk = decode_batch([5, 6], 1)._replace(query_starts=np.array([0, 2]), context_lens=np.array([6]))
    assert not graphs.fits(chunk)


@pytest.mark.parametrize("most", [1, 16, 20, 100, 512, 1000, 1024])
def test_the_ladder_of_chunks_pads_little(most: int) -> None:
    sizes = chunk_graphs.ladder(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    for rows in range(16, most + 1):
        assert min(size for size in sizes if size >= rows) <= rows * 1.25


@pytest.mark.parametrize("ahead", [False, True])
def test_captured_chunks_give_the_same_tokens(
    folder: Path, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of up to 9 sequences are replays, those of more are not; some have chunks beside single rows."""
    replayed = []
    plain = chunk_graphs.ChunkGraphs.run

    def counted(self: chunk_graphs.ChunkGraphs, batch: Batch, stored: object) -> torch.Tensor:
        replayed.append((len(batch.token_ids), len(batch.context_lens)))
        return plain(self, batch, stored)

    monkeypatch.setattr(chunk_graphs.ChunkGraphs, "run", counted)
    some = engine(folder, captured=False, ahead=ahead, chunks=True)
    assert run(some, workload()) == run(engine(folder, captured=False), workload())
    assert len(replayed) > 5
    assert any(rows > seqs > 1 for rows, seqs in replayed), replayed


def test_who_watches_hears_of_groups_of_layers(folder: Path) -> None:
    some, heard = engine(folder, captured=False, chunks=True), []
    some.runner.forward(decode_batch([5, 20], 3), heard.append, 2)
    assert heard == [1, 2, 3]


def test_chunks_of_nobody_write_nothing(folder: Path) -> None:
    runner = engine(folder, captured=False, chunks=True).runner
    before = runner.cache.pages.clone()
    batch = decode_batch([5, 20, 33], 3)
    runner.forward(batch)
    changed = (runner.cache.pages != before).any(dim=(0, 1, 4, 5)).flatten().nonzero().flatten()
    assert sorted(changed.tolist()) == sorted(batch.slots.tolist())
