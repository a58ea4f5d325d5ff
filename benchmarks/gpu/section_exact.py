"""Deterministic mode on the GPU: a row's bits depend on nothing but its own sequence, and what that costs.

The rows of a batch of 255, 256 and 257 sequences against each of them alone, bit for bit; a prompt in chunks
against the same in one; a token decoded against the same read as the last of a prompt, as after a migration.
Beside it the price: a decode step and a prompt with and without.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from benchmarks.gpu import models
from benchmarks.gpu.case import Reading, World
from benchmarks.gpu.section_steps import Figures, decode_batch, eagerly, times
from pagewire.engine.batch import Batch
from pagewire.engine.engine import Engine
from pagewire.engine.runner import one_prompt

ALONE = True
WEIGHT = 2


def cases(world: World) -> Iterator[Reading]:
    shape = models.QWEN3_06B
    config = models.config_of(world, shape)
    rows, context, prompt = (7, 20, 40) if world.tiny else (257, 512, 4096)
    plain, exact = (
        models.engine_for(
            world,
            config,
            rows=rows,
            kv_tokens=max(rows * (context + models.PAGE_SIZE), prompt),
            max_model_len=prompt,
            deterministic=deterministic,
        )
        for deterministic in (False, True)
    )
    for batch in (rows - 2, rows - 1, rows):
        read = partial(alone_and_together, exact, batch, context)
        yield Reading(kernel="exact, 0.6B", shape=f"batch {batch}", read=read)
    yield Reading(kernel="exact, 0.6B", shape="chunks", read=partial(cut, exact, prompt))
    yield Reading(kernel="exact, 0.6B", shape="decoded or read", read=partial(read_again, exact, context))
    for batch in (1, rows // 4, rows):
        read = partial(price, plain, exact, decode_batch(plain, batch, context), world.device)
        yield Reading(kernel="price of exactness, 0.6B", shape=f"decode step, batch {batch}", read=read)
    random = np.random.default_rng(1).integers(0, config.vocab_size, prompt)
    batch_of_one = one_prompt(prompt, models.PAGE_SIZE)._replace(token_ids=random)
    read = partial(price, plain, exact, batch_of_one, world.device)
    yield Reading(kernel="price of exactness, 0.6B", shape=f"prompt of {prompt}", read=read)


def alone_and_together(engine: Engine, rows: int, context: int) -> Figures:
    """Rows whose logits have other bits in the batch than alone; captured, and launched one by one."""
    batch = decode_batch(engine, rows, context)
    together = engine.runner.forward(batch).clone()
    with eagerly(engine):
        eager = engine.runner.forward(batch).clone()
    picked = sorted({*range(0, rows, max(1, rows // 16)), rows - 1})
    wrong = sum(not torch.equal(engine.runner.forward(_row(batch, row))[0], together[row]) for row in picked)
    _check(wrong == 0, f"{wrong} of {len(picked)} rows")
    _check(torch.equal(eager, together), "captured and not captured")
    return {"rows compared": len(picked), "differ": wrong}


def cut(engine: Engine, tokens: int) -> Figures:
    """The last row of a prompt that came whole, and of one that came in uneven chunks."""
    random = np.random.default_rng(1).integers(0, engine.runner.vocab_size, tokens)
    whole_batch = one_prompt(tokens, models.PAGE_SIZE)._replace(token_ids=random)
    whole = engine.runner.forward(whole_batch).clone()
    cuts = [0, 1, tokens // 3 + 5, tokens // 2 + 1, tokens]
    for first, last in pairwise(cuts):
        chunk = _part(whole_batch, first, last)
        logits = engine.runner.forward(chunk)
    _check(torch.equal(logits, whole), "a prompt whole and in chunks")
    return {"chunks": len(cuts) - 1, "differ": 0}


def read_again(engine: Engine, context: int) -> Figures:
    """A token that is decoded, and the same one as the last of a prompt: what preemption and migration do."""
    random = np.random.default_rng(3).integers(0, engine.runner.vocab_size, context)
    whole_batch = one_prompt(context, models.PAGE_SIZE)._replace(token_ids=random)
    read = engine.runner.forward(whole_batch).clone()
    engine.runner.forward(_part(whole_batch, 0, context - 1))
    decoded = engine.runner.forward(_part(whole_batch, context - 1, context))
    _check(torch.equal(decoded, read), "a token decoded and read")
    return {"differ": 0}


def price(plain: Engine, exact: Engine, batch: Batch, device: torch.device) -> Figures:
    without, with_it = (times(lambda e=e: e.runner.forward(batch), device, 10) for e in (plain, exact))
    return {"plain ms": without, "exact ms": with_it, "exact / plain": with_it / without}


def _row(batch: Batch, row: int) -> Batch:
    one = slice(row, row + 1)
    return Batch(
        batch.token_ids[one], batch.positions[one], batch.slots[one], np.array([0, 1]),
        batch.context_lens[one], batch.page_tables[one], np.array([0]),
    )  # fmt: skip


def _part(batch: Batch, first: int, last: int) -> Batch:
    """The rows [first, last) of a prompt, and the logits of the last of them."""
    rows = slice(first, last)
    return Batch(
        batch.token_ids[rows], batch.positions[rows], batch.slots[rows], np.array([0, last - first]),
        np.array([last]), batch.page_tables, np.array([last - first - 1]),
    )  # fmt: skip


def _check(true: bool, what: str) -> None:
    if not true:
        raise AssertionError(f"NOT EXACT: {what} have other bits")
