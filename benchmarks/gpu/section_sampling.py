"""Choosing tokens from logits that lie on the device, against what torch has for it.

Torch's ways promise less: ``argmax`` nothing about ties, ``multinomial`` nothing about what else is in the
batch. Ours are the tokens of the host, and any other token counts as wrong. Logits come out of a matmul in
practice and are partly in the cache; here a few sets of them are taken in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.case import Case, Target, Tune, World
from kernels import tuned
from kernels.sampling_triton import DeviceRows, sample
from pagewire.engine.sampler import SampleRow, device_rows, needs_of, sample_ahead
from pagewire.sampling import SamplingParams

SETS = 12  # of logits, at most
Torch = Callable[[torch.Tensor], torch.Tensor]


class Way(NamedTuple):
    name: str
    params: dict[str, Any]
    peer: Torch
    operations: int  # for each logit


def argmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(dim=1)


def softmax_multinomial(logits: torch.Tensor) -> torch.Tensor:
    return torch.multinomial((logits / 0.8).softmax(dim=1), 1)


def softmax_sort_multinomial(logits: torch.Tensor) -> torch.Tensor:
    probs, ids = (logits / 0.8).softmax(dim=1).sort(dim=1, descending=True)
    probs = probs.masked_fill(probs.cumsum(dim=1) - probs >= 0.95, 0.0)
    return ids.gather(1, torch.multinomial(probs, 1))


def topk_multinomial(logits: torch.Tensor) -> torch.Tensor:
    best, ids = logits.topk(min(50, logits.shape[1]), dim=1)
    probs = (best / 0.8).softmax(dim=1)
    probs = probs.masked_fill(probs.cumsum(dim=1) - probs >= 0.95, 0.0)
    return ids.gather(1, torch.multinomial(probs, 1))


WAYS = (
    Way("greedy", {"temperature": 0.0}, argmax, 1),
    Way("temperature 0.8", {"temperature": 0.8}, softmax_multinomial, 30),
    Way("top_p 0.95", {"temperature": 0.8, "top_p": 0.95}, softmax_sort_multinomial, 30),
    Way("top_k 50, top_p 0.95", {"temperature": 0.8, "top_k": 50, "top_p": 0.95}, topk_multinomial, 30),
)


def cases(world: World) -> Iterator[Case]:
    vocab = world.pick(151_936, 90)
    for count in (3,) if world.tiny else (1, 16, 64, 256):
        sets = min(SETS, 1 + (100 << 20) // (4 * vocab * count)) if not world.tiny else 2
        logits = [likely(world, count, vocab) for _ in range(sets)]
        for way in WAYS:
            yield case(world, way, logits)


def likely(world: World, count: int, vocab: int) -> torch.Tensor:
    """Logits of which a few dozen in a row are far above the others, as a language model's are."""
    logits = torch.randn(count, vocab, device=world.device) * 2
    few = torch.randint(vocab, (count, 30), device=world.device)
    return logits.scatter_add_(1, few, torch.rand(count, 30, device=world.device) * 8 + 4)


def case(world: World, way: Way, logits: list[torch.Tensor]) -> Case:
    count, vocab = logits[0].shape
    params = SamplingParams(**way.params)
    fields = device_rows([SampleRow(params, seed, [0], range(9), 1) for seed in range(count)])
    rows = DeviceRows(*(torch.from_numpy(field).to(world.device) for field in fields))
    needs = needs_of(fields)
    out = torch.empty(count, dtype=torch.int64, device=world.device)

    def wrong() -> float:
        expected = sample_ahead(logits[0].cpu(), DeviceRows(*map(torch.from_numpy, fields)))
        return 0.0 if torch.equal(sample(logits[0], rows, out.fill_(-7), needs).cpu(), expected) else 1.0

    uses = [
        {"tile": tile, "programs": programs, "num_warps": tile // 256}
        for tile in (512, 1024, 2048)
        for programs in (396, 660, 1056, 2112)
    ]
    shape = {"vocab": vocab, "rows": tuned.bucket(count)}
    return Case(
        kernel="sampling",
        shape=f"{count} rows of {vocab}, {way.name}",
        runs=[partial(sample, x, rows, out, needs) for x in logits],
        wrong=wrong,
        tolerance=0.0,
        nbytes=4 * count * vocab,
        flops=way.operations * count * vocab,
        peers={way.peer.__name__: [partial(way.peer, x) for x in logits]},
        target=Target("peer", 1.0),
        tune=Tune("sampling", shape, uses) if way.name.startswith("top_p") else None,
    )
