"""Whole steps of a 7B model (the shape of Qwen2.5-7B, bf16): decoding against the memory, prompts against the
tensor cores.

The floor of a decode step: its weights and KV read once at the copy bandwidth of the same run, or its
products at the matrix rate, whichever takes longer. "step" is the captured graph alone; "engine" is what an
engine takes a step with scheduling, sampling and everything that the host does, one step ahead; "eager" is
the graph's work launched kernel by kernel. Targets: a decode step within 1.25 of its floor, a prompt of 8,192
tokens within 1.5.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from benchmarks.gpu import models
from benchmarks.gpu.case import Reading, World
from benchmarks.gpu.timing import synchronize
from pagewire.engine.batch import Batch
from pagewire.engine.engine import Engine
from pagewire.engine.runner import one_prompt
from pagewire.engine.sequence import Sequence
from pagewire.messages import RequestId
from pagewire.sampling import SamplingParams

ALONE = True
WEIGHT = 3
WARM, TIMED = 8, 32  # steps
Figures = Mapping[str, float | int | str]


def cases(world: World) -> Iterator[Reading]:
    batches, context, prompts = (
        ((1, 3), 20, (30, 40)) if world.tiny else ((1, 16, 64, 256), 2048, (256, 8192))
    )
    config = models.config_of(world, models.QWEN25_7B)
    each = context + WARM + TIMED + models.PAGE_SIZE
    engine = models.engine_for(
        world,
        config,
        rows=max(batches),
        kv_tokens=max(max(batches) * each, *prompts),
        max_model_len=max(each, *prompts),
    )
    for batch in batches:
        yield Reading(
            kernel="decode step, 7B",
            shape=f"batch {batch}, context {context}",
            read=partial(decode, engine, batch, context, world),
            at_most={"step / floor": 1.25},
        )
    for batch in batches[::2]:
        yield Reading(
            kernel="where a decode step goes, 7B",
            shape=f"batch {batch}, context {context}",
            read=partial(parts, engine, batch, context, world.device),
        )
    for tokens in prompts:
        yield Reading(
            kernel="prefill, 7B",
            shape=f"{tokens} tokens",
            read=partial(prefill, engine, tokens, world),
            at_most={"of the floor": 1.5} if tokens == prompts[-1] else {},
        )


@contextmanager
def eagerly(engine: Engine) -> Iterator[None]:
    """Without graphs."""
    runner = engine.runner
    kept = runner._graphs, runner._chunks
    runner._graphs = runner._chunks = None
    yield
    runner._graphs, runner._chunks = kept


def decode(engine: Engine, rows: int, context: int, world: World) -> Figures:
    config = engine.runner.decoder.config
    layers, head = models.products(config)
    itemsize = engine.runner.cache.pages.element_size()
    nbytes = (layers + head) * itemsize + rows * context * models.kv_bytes(engine)
    flops = 2 * rows * (layers + head) + 4 * rows * context * config.layers * config.heads * config.head_dim
    floor = max(nbytes / world.ceilings["copy"] / 1e6, flops / world.ceilings["bf16"] / 1e9)
    batch = decode_batch(engine, rows, context)
    with eagerly(engine):
        eager = times(lambda: engine.runner.forward(batch), world.device)
    step = times(lambda: engine.runner.forward(batch), world.device)
    whole = engine_steps(engine, rows, context)
    return {
        "step ms": step,
        "floor ms": floor,
        "step / floor": step / floor,
        "engine ms": whole,
        "engine / floor": whole / floor,
        "eager ms": eager,
        "tokens/s": rows / whole * 1e3,
    }


def parts(engine: Engine, rows: int, context: int, device: torch.device) -> Figures:
    """Microseconds of the device by kernel, all layers together; "between" is what no kernel runs in."""
    batch = decode_batch(engine, rows, context)
    engine.runner.forward(batch)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
    with torch.profiler.profile(activities=kinds) as profile:
        engine.runner.forward(batch)
        synchronize(device)
    found: dict[str, float] = {}
    spans = []
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            name = re.sub(r"^void |<.*|\(.*", "", event.name)[:40]
            found[name] = found.get(name, 0.0) + event.time_range.elapsed_us()
            spans.append((event.time_range.start, event.time_range.end))
    if not spans:
        return {"kernels": 0}
    whole = max(end for _, end in spans) - min(start for start, _ in spans)
    largest = sorted(found.items(), key=lambda item: -item[1])[:14]
    return {"kernels": len(spans), "us": whole, "between": whole - sum(found.values()), **dict(largest)}


def prefill(engine: Engine, tokens: int, world: World) -> Figures:
    config = engine.runner.decoder.config
    layers, head = models.products(config)
    pairs = tokens * (tokens + 1) // 2
    flops = 2 * tokens * layers + 4 * pairs * config.layers * config.heads * config.head_dim
    weights = (layers + head) * engine.runner.cache.pages.element_size()
    floor = max(flops / world.ceilings["bf16"] / 1e9, weights / world.ceilings["copy"] / 1e6)
    random = np.random.default_rng(1).integers(0, config.vocab_size, tokens)
    batch = one_prompt(tokens, models.PAGE_SIZE)._replace(token_ids=random)
    took = times(lambda: engine.runner.forward(batch), world.device, 5)
    with eagerly(engine):
        eager = times(lambda: engine.runner.forward(batch), world.device, 5)
    found = {"ms": took, "floor ms": floor, "of the floor": took / floor, "tokens/s": tokens / took * 1e3}
    return found | {"eager ms": eager}


def times(run: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Milliseconds of one, with the device kept busy: the host runs ahead where it can."""
    rounds = []
    for number in range(3):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        synchronize(device)
        if number:  # the first one warms up
            rounds.append((time.perf_counter() - began) / repeats * 1e3)
    return statistics.median(rounds)


def decode_batch(engine: Engine, rows: int, context: int) -> Batch:
    """A step of ``rows`` sequences, whose pages are anybody's."""
    pages = -(-context // models.PAGE_SIZE)
    order = np.random.default_rng(2).permutation(engine.config.num_pages)[: rows * pages]
    tables = order.reshape(rows, pages).astype(np.int64)
    each = np.arange(rows, dtype=np.int64)
    last = np.full(rows, context - 1)
    slots = tables[:, -1] * models.PAGE_SIZE + last % models.PAGE_SIZE
    return Batch(each % 90, last, slots, np.arange(rows + 1), last + 1, tables, each)


def engine_steps(engine: Engine, rows: int, context: int) -> float:
    """Milliseconds of a step of the engine itself, with ``rows`` sequences that arrive with their KV."""
    params = SamplingParams(temperature=0.7, top_p=0.95, max_tokens=WARM + TIMED + 4, ignore_eos=True)
    for number in range(rows):
        tokens = [(7 * i + number) % 90 for i in range(context)]
        seq = Sequence(
            RequestId(f"{number:032x}"), 1, [0], tokens, context, params, number, context + WARM + TIMED + 4
        )
        seq.lease = engine.pool.lease()
        assert engine.pool.grow(seq.lease, engine.pool.pages_for(context))
        seq.num_computed = context
        engine.adopt(seq, [(0, 5)])
    for _ in range(WARM):
        engine.step()
    began = time.perf_counter()
    for _ in range(TIMED):
        assert len(engine.step().tokens) == rows
    took = (time.perf_counter() - began) / TIMED * 1e3
    while engine.busy:
        for finished in engine.step().finished:
            engine.pool.release(finished.lease)
    return took
