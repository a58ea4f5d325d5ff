"""How fast an engine computes with nobody to serve, and how fast this machine would let it be.

Rates are tokens per second of the engine's own steps, as a node takes them: scheduling, arithmetic, sampling.
The floor is a roofline (Williams, Waterman and Patterson 2009), measured in the same run: the multiplications
of the weights at the rate of the best matrix product that the engine uses and those of attention at that of
the best product in its dtype, or the weights and the KV read once a step at the rate at which memory is read;
whichever takes longer. Knows engines and numbers; prints nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from kernels import native_library as native
from pagewire.engine.build import Built
from pagewire.engine.engine import Engine
from pagewire.engine.packed_decoder import PackedDecoder
from pagewire.engine.sequence import Sequence
from pagewire.errors import ConfigError
from pagewire.messages import RequestId
from pagewire.sampling import SamplingParams

PROMPT = 256  # tokens
BATCHES = (1, 8, 32)
ROUNDS = 3
_AT_ONCE = 8  # prompts
_STEPS = 32  # of decoding, a round
_PROBE_S = 0.3

Say = Callable[[str], None]


class Rates(NamedTuple):
    """Tokens per second: of prompts, and by the number of sequences that decode at once."""

    prefill: float
    decode: dict[int, float]


class Spread(NamedTuple):
    median: Rates
    low: Rates
    high: Rates


class Report(NamedTuple):
    """``peak`` multiplications per second of weights, ``attention_peak`` of attention; ``bandwidth`` bytes
    read per second.
    """

    rates: Spread
    floor: Rates
    peak: float
    attention_peak: float
    bandwidth: float
    weight_bytes: int
    threads: int


def measure(built: Built, say: Say = lambda _: None) -> Report:
    """A minute or so. The engine must be idle and without a prefix cache, which would answer in its place.

    Raises ConfigError if it is too small for the largest batch.
    """
    engine = built.engine
    if engine.config.prefix_caching:
        raise ConfigError("a benchmark of the engine needs one without a prefix cache")
    length = PROMPT + _STEPS + 2
    fits = min(engine.config.num_pages * engine.config.page_size // (length + 16), engine.config.max_num_seqs)
    if fits < max(BATCHES) or engine.config.max_model_len < length:
        raise ConfigError(f"there is room for {fits} sequences of {length} tokens; {max(BATCHES)} are needed")
    rounds = []
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}: prompts")
        prefill = _prefill(engine)
        found = {}
        for batch in BATCHES:
            say(f"round {number + 1} of {ROUNDS}: decoding {batch}")
            found[batch] = decode(engine, batch)
        rounds.append(Rates(prefill, found))
    say("the floor")
    peak, bandwidth = _peak(built), _bandwidth(built.device)
    plain = _plain_peak(built)
    weights = _weight_bytes(built)
    floor = _floor(built, peak, plain, bandwidth, weights)
    return Report(_spread(rounds), floor, peak, plain, bandwidth, weights, torch.get_num_threads())


def _spread(rounds: list[Rates]) -> Spread:
    def pick(choose: Callable[[list[float]], float]) -> Rates:
        decode = {b: choose([r.decode[b] for r in rounds]) for b in BATCHES}
        return Rates(choose([r.prefill for r in rounds]), decode)

    return Spread(pick(statistics.median), pick(min), pick(max))


# --- the engine ---------------------------------------------------------------------------------------------


def _admit(engine: Engine, count: int, new_tokens: int, prompt: int = PROMPT) -> list[Sequence]:
    generator = torch.Generator().manual_seed(count)
    found = []
    for number in range(count):
        tokens = torch.randint(0, engine.runner.vocab_size, (prompt,), generator=generator).tolist()
        params = SamplingParams(max_tokens=new_tokens, ignore_eos=True, temperature=0.0)
        end = prompt + new_tokens
        found.append(Sequence(RequestId(f"{number:032x}"), 1, [0], tokens, prompt, params, 0, end))
        engine.admit(found[-1])
    return found


def _finish(engine: Engine) -> None:
    while engine.busy:
        for finished in engine.step().finished:
            engine.pool.release(finished.lease)


def _prefill(engine: Engine) -> float:
    _admit(engine, _AT_ONCE, 1)
    began = time.perf_counter()
    _finish(engine)
    return _AT_ONCE * PROMPT / (time.perf_counter() - began)


def decode(engine: Engine, batch: int, context: int = PROMPT) -> float:
    """Tokens per second of ``batch`` sequences of ``context`` tokens each, and a few more by the end."""
    sequences = _admit(engine, batch, _STEPS + 2 + batch, context)  # some are read when others write
    while any(seq.num_output == 0 for seq in sequences):
        engine.step()
    for seq in sequences:  # the first ones are further by now
        seq.max_len = len(seq.tokens) + _STEPS + 1
    began = time.perf_counter()
    for _ in range(_STEPS):
        assert len(engine.step().tokens) == batch
    seconds = time.perf_counter() - began
    _finish(engine)
    return batch * _STEPS / seconds


# --- the machine --------------------------------------------------------------------------------------------


def _products(built: Built) -> tuple[int, int]:
    """Multiplications that a token needs in all layers, and in the head."""
    c = built.model
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    layer = c.hidden_size * (2 * queries + 2 * keys + 3 * c.intermediate_size)
    return c.layers * layer, c.hidden_size * c.vocab_size


def _weight_bytes(built: Built) -> int:
    """Bytes that a step reads, whatever its rows."""
    decoder = built.engine.runner.decoder
    if isinstance(decoder, PackedDecoder):
        return sum(packed.nbytes for packed in decoder.packed())
    return sum(_products(built)) * decoder.dtype.itemsize


def _floor(built: Built, peak: float, plain: float, bandwidth: float, weights: int) -> Rates:
    layers, head = _products(built)
    c = built.model
    attention = 2 * c.layers * c.heads * c.head_dim / plain  # seconds for a token that sees one other
    steps = {}
    for batch in BATCHES:
        context = PROMPT + _STEPS // 2
        seconds = max(
            batch * ((layers + head) / peak + context * attention),
            (weights + batch * context * built.layout.token_bytes) / bandwidth,
        )
        steps[batch] = batch / seconds
    return Rates(1 / (layers / peak + (PROMPT + 1) / 2 * attention), steps)


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest run within a while."""
    best, stop = float("inf"), time.perf_counter() + _PROBE_S
    while time.perf_counter() < stop:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


_PRODUCT = {"cpu": (96, 512, 512), "cuda": (8192, 8192, 8192)}
"""Rows, N, K: on a CPU operands that stay in the second cache, on a GPU enough to fill it."""


def _peak(built: Built) -> float:
    """Multiplications per second of weights."""
    decoder = built.engine.runner.decoder
    if not isinstance(decoder, PackedDecoder):
        return _plain_peak(built)
    rows, n, k = _PRODUCT["cpu"]
    x, threads = torch.randn(rows, k), native.Threads(torch.get_num_threads())
    like = min(decoder.packed(), key=lambda packed: packed.bits)
    packed = native.Packed(n, k, like.bits, like.row_bits)
    return rows * n * k / _best(lambda: native.linear(threads, x, packed), built.device)


def _plain_peak(built: Built) -> float:
    """The same of weights as they are, in the dtype that is computed in."""
    dtype, device = built.engine.runner.decoder.dtype, built.device
    rows, n, k = _PRODUCT[device.type]
    x, weight = (torch.randn(size, k, device=device, dtype=dtype) for size in (rows, n))
    return rows * n * k / _best(lambda: torch.mm(x, weight.T), device)


def _bandwidth(device: torch.device) -> float:
    """Bytes read per second, of more memory than any cache has."""
    memory = torch.zeros((1 << 30 if device.type == "cuda" else 1 << 26), device=device)
    return memory.nbytes / _best(memory.sum, device)
