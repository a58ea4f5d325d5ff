"""Choosing tokens: from a row of logits and sampling parameters to the next token of each choice.

Knows logits, parameters and the tokens so far; knows no model, no page and no batch composition. A row's
result is bitwise the same whatever its neighbours and the thread count, with the C++ kernels or without: the
order of logits is exact, and weights are whole numbers (``kernels.sampling``), so sums are. A draw is a
function of (seed, choice, absolute position).

The meaning of each parameter and the order in which they act are vLLM's: grammar; min_tokens and logit_bias;
repetition, frequency and presence penalties; temperature; min_p; top_k; top_p. Log-probabilities are those of
the model's raw distribution, before any of that (vLLM's ``raw_logprobs``). Ties go to the lower token id
everywhere. Tokens less than 2^-41 times as likely as the likeliest are never drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import native_library, sampling_native, sampling_triton
from kernels.backend import use_triton
from kernels.sampling import Ints, Logits, largest, least_weight, log_of, nucleus, weights
from kernels.sampling_native import Row, Score
from kernels.sampling_triton import DeviceRows, Needs
from pagewire.engine import upload
from pagewire.engine.constraint import Mask, permitted
from pagewire.engine.sequence import Sequence
from pagewire.rng import uniform
from pagewire.sampling import SamplingParams

Top = list[tuple[int, float]]  # (token id, log-probability), most likely first
Threads = native_library.Threads
_LOW_64, _TOP_BIT = (1 << 64) - 1, 1 << 63


class Sampled(NamedTuple):
    """The next token of one choice; if asked for, its log-probability and the most likely tokens'."""

    token: int
    logprob: float | None = None
    top: Top = []  # noqa: RUF012


class InvalidLogits(NamedTuple):
    """In place of a row's result: nothing can be chosen from it. It says nothing about the other rows."""

    reason: str


NOT_FINITE = InvalidLogits("the logits are not finite")
NOTHING_LEFT = InvalidLogits("no token is left to choose from")


class SampleRow(NamedTuple):
    """What choosing the next token of one sequence depends on, its logits aside. ``tokens`` is borrowed."""

    params: SamplingParams
    seed: int
    choices: Many[int]
    tokens: Many[int]  # prompt and output so far; the new token's absolute position is their number
    num_prompt: int
    banned: tuple[int, ...] = ()  # ids that may not be chosen yet (min_tokens)
    mask: Mask | None = None  # borrowed: what the grammar permits

    @classmethod
    def of(cls, seq: Sequence, eos_token_ids: Many[int]) -> SampleRow:
        params = seq.sampling
        early = seq.num_output < params.min_tokens
        banned = (*eos_token_ids, *params.stop_token_ids) if early else ()
        mask = None if seq.matcher is None else seq.matcher.mask()
        return cls(params, seq.seed, seq.choices, seq.tokens, seq.num_prompt, banned, mask)

    @property
    def edited(self) -> bool:
        """True if something comes between the model's logits and the choice."""
        return bool(self.params.penalised or self.params.logit_bias or self.banned or self.mask is not None)

    @property
    def on_device(self) -> bool:
        """True if its tokens can be chosen where the logits are: by ``sample_ahead``."""
        return self.params.logprobs is None and not self.edited


class HostRows(NamedTuple):
    """DeviceRows before they are on the device: the same fields, arrays [N]."""

    heat: NDArray[np.float32]
    top_p: NDArray[np.float64]
    top_k: Ints
    least: Ints
    seed: Ints
    position: Ints
    choice: Ints
    row: Ints

    @classmethod
    def empty(cls, count: int) -> HostRows:
        ints = (np.zeros(count, np.int64) for _ in range(6))
        return cls(np.zeros(count, np.float32), np.zeros(count, np.float64), *ints)


def device_rows(rows: Many[SampleRow], out: HostRows | None = None) -> HostRows:
    """What ``sample_ahead`` is to know of ``rows``, all ``on_device``: an entry for each choice, in order.

    With ``out``, which may be longer, that is filled and what is left of it made zero: a greedy token of the
    first row of logits, for nobody. A draw is for position ``len(row.tokens)``.
    """
    drawn = []
    for r, row in enumerate(rows):
        p = row.params
        heat = 0.0 if p.greedy else 1.0 / p.temperature
        of_row = (heat, p.top_p, p.top_k, least_weight(p.min_p), _signed(row.seed), len(row.tokens))
        drawn += [(*of_row, choice, r) for choice in row.choices]
    out = HostRows.empty(len(drawn)) if out is None else out
    fields: tuple[NDArray[Any], ...] = out
    for field, values in zip(fields, zip(*drawn, strict=True), strict=False):
        field[: len(drawn)] = values
    for field in fields:
        field[len(drawn) :] = 0
    return out


def needs_of(rows: HostRows) -> Needs:
    """What ``rows`` ask for, so that nothing is launched in vain."""
    draws = rows.heat > 0
    return Needs(bool(draws.any()), bool((rows.top_k[draws] > 0).any()), bool((rows.top_p[draws] < 1).any()))


def sample_ahead(
    logits: Tensor,
    rows: DeviceRows,
    threads: Threads | None = None,
    needs: Needs = Needs(),  # noqa: B008
) -> Tensor:
    """The tokens [N], int64, on the device of ``logits`` [R, V]: those of ``sample``, -1 from a row that is
    not finite. On a GPU nothing waits for them, and a graph may hold it all; on the CPU they are there.
    """
    if use_triton(logits):
        out = torch.empty(len(rows.row), dtype=torch.int64, device=logits.device)
        return sampling_triton.sample(logits, rows, out, needs)
    return _ahead_on_host(logits, HostRows(*(field.numpy() for field in rows)), threads)


def sample(
    logits: Tensor, rows: Many[SampleRow], threads: Threads | None = None
) -> list[list[Sampled] | InvalidLogits]:
    """For row r of ``logits`` [R, V], float32, a Sampled for each of ``rows[r].choices``, in order.

    ``logits`` is not changed. A row that holds NaN or +inf, or leaves no token to choose, gives
    InvalidLogits. ``threads`` take part where logits lie on the host.
    """
    assert logits.shape[0] == len(rows)
    if not use_triton(logits):
        return _on_host(logits.cpu(), rows, threads)
    results: list[list[Sampled] | InvalidLogits] = [InvalidLogits("")] * len(rows)
    here = [r for r, row in enumerate(rows) if row.on_device]
    other = [r for r, row in enumerate(rows) if not row.on_device]
    for r, tokens in zip(here, _on_device(logits, here, [rows[r] for r in here]), strict=True):
        results[r] = NOT_FINITE if tokens[0] < 0 else [Sampled(token, None, []) for token in tokens]
    moved = _on_host(_take(logits, other).cpu(), [rows[r] for r in other], threads)
    for r, result in zip(other, moved, strict=True):
        results[r] = result
    return results


def score_prompt(
    logits: Tensor, following: Many[int], k: int, threads: Threads | None = None
) -> tuple[list[float], list[Top]]:
    """Log-probability of each of ``following`` [T] in its row of ``logits`` [T, V], and the k most likely.

    A row that holds NaN or +inf gives -inf and an empty list.
    """
    assert logits.shape[0] == len(following)
    values = logits.float().cpu().numpy()
    scores = _scores(values, [(r, k) for r in range(len(following))], threads)
    each = zip(values, following, scores, strict=True)
    return [_logprob(x, token, s) for x, token, s in each], [
        _top(x, s) for x, s in zip(values, scores, strict=True)
    ]


def _on_device(logits: Tensor, at: list[int], rows: Many[SampleRow]) -> list[list[int]]:
    """The tokens of each row's choices, of rows ``at`` of ``logits``, all ``on_device``."""
    if not rows:
        return []
    fields = device_rows(rows)
    fields.row[:] = np.array(at)[fields.row]
    places = upload.offsets(fields)
    block = np.empty(places[-1], np.uint8)
    upload.pack(fields, places, block)
    moved = DeviceRows(*upload.unpack(fields, places, torch.from_numpy(block).to(logits.device)))
    found = iter(sample_ahead(logits, moved, needs=needs_of(fields)).tolist())
    return [[next(found) for _ in row.choices] for row in rows]


def _ahead_on_host(logits: Tensor, rows: HostRows, threads: Threads | None) -> Tensor:
    if len(rows.row) == 0:
        return torch.empty(0, dtype=torch.int64)
    values: NDArray[np.float32] = logits.float().numpy()
    each = zip(*(field.tolist() for field in rows), strict=True)
    if native_library.available():
        base, stride = _layout(values)
        packed = [
            Row(base + row * stride, heat, top_p, top_k, least, seed, position, [choice])
            for heat, top_p, top_k, least, seed, position, choice, row in each
        ]
        tokens = [token for (token,) in sampling_native.sample_rows(threads, packed, values.shape[1])]
    else:
        tokens = [
            _choose_one(values[row], Row(0, heat, top_p, top_k, least, seed, position, [choice]))[0]
            for heat, top_p, top_k, least, seed, position, choice, row in each
        ]
    return torch.tensor(tokens, dtype=torch.int64)


def _signed(seed: int) -> int:
    """The seed's 64 bits as a whole number of numpy."""
    return ((seed & _LOW_64) ^ _TOP_BIT) - _TOP_BIT


def _take(logits: Tensor, rows: list[int]) -> Tensor:
    return logits if len(rows) == logits.shape[0] else logits[rows]


def _on_host(
    logits: Tensor, rows: Many[SampleRow], threads: Threads | None
) -> list[list[Sampled] | InvalidLogits]:
    if not rows:
        return []
    values: NDArray[np.float32] = logits.float().numpy()
    edited = {r: adjusted(values[r], row) for r, row in enumerate(rows) if row.edited}
    tokens = _choose(values, edited, rows, threads)
    scored = [(r, row.params.logprobs) for r, row in enumerate(rows) if row.params.logprobs is not None]
    scores = dict(zip((r for r, _ in scored), _scores(values, scored, threads), strict=True))
    return [_result(values[r], tokens[r], scores.get(r)) for r in range(len(rows))]


def _result(raw: Logits, tokens: list[int], score: Score | None) -> list[Sampled] | InvalidLogits:
    if tokens[0] < 0:
        return NOTHING_LEFT if np.isfinite(raw.max()) else NOT_FINITE
    if score is None:
        return [Sampled(token, None, []) for token in tokens]
    return [Sampled(token, _logprob(raw, token, score), _top(raw, score)) for token in tokens]


@np.errstate(over="ignore")
def adjusted(raw: Logits, row: SampleRow) -> Logits:
    """Logits [V] after grammar, min_tokens, logit_bias and the penalties; ``raw`` itself if it is not finite.

    Repetition counts prompt and output (positive logits are divided, others multiplied); frequency and
    presence count the output alone.
    """
    if not np.isfinite(raw.max()):
        return raw
    params, x = row.params, raw.copy()
    if row.mask is not None:
        x[~permitted(row.mask, len(x))] = -np.inf
    _ban(x, row)
    for token, bias in params.logit_bias.items():
        x[token] += bias
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.asarray(row.tokens, dtype=np.int64))
        r = params.repetition_penalty
        x[seen] = np.where(x[seen] > 0, x[seen] / r, x[seen] * r)
    if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
        output = np.asarray(row.tokens[row.num_prompt :], dtype=np.int64)
        ids, counts = np.unique(output, return_counts=True)
        x[ids] -= params.frequency_penalty * counts + params.presence_penalty
    return x


def _ban(x: Logits, row: SampleRow) -> None:
    """Where a grammar leaves only what min_tokens bans, its end, it may end."""
    banned = [i for i in row.banned if 0 <= i < len(x)]
    held = x[banned]
    x[banned] = -np.inf
    if row.mask is not None and np.isneginf(x.max()):
        x[banned] = held


# --- the same twice: in C++, and in numpy ---


def _choose(
    values: Logits, edited: dict[int, Logits], rows: Many[SampleRow], threads: Threads | None
) -> list[list[int]]:
    """The tokens of each row's choices, of row r of ``values`` or ``edited[r]``; -1 where there is none."""
    if not native_library.available():
        return [_choose_one(edited.get(r, values[r]), _pack(0, row)) for r, row in enumerate(rows)]
    base, stride = _layout(values)
    addresses = [base + r * stride for r in range(len(rows))]
    for r, x in edited.items():
        addresses[r] = _layout(x)[0]
    packed = [_pack(address, row) for address, row in zip(addresses, rows, strict=True)]
    return sampling_native.sample_rows(threads, packed, values.shape[1])


def _pack(address: int, row: SampleRow) -> Row:
    p = row.params
    heat = 0.0 if p.greedy else 1.0 / p.temperature
    least = least_weight(p.min_p)
    return Row(address, heat, p.top_p, p.top_k, least, row.seed, len(row.tokens), row.choices)


def _choose_one(x: Logits, row: Row) -> list[int]:
    """Of logits ``x``, whatever the row says of where they are."""
    best = int(x.argmax())  # numpy promises the first of equals, and that NaN is the largest
    if not np.isfinite(x[best]):
        return [-1] * len(row.choices)
    return _draw(x, row) if row.heat else [best] * len(row.choices)


def _scores(values: Logits, wanted: list[tuple[int, int]], threads: Threads | None) -> list[Score]:
    """For each (row of ``values``, k) the row's Score with as many of k ids as there are."""
    if not wanted:
        return []
    vocab = values.shape[1]
    if native_library.available():
        base, stride = _layout(values)
        rows = [(base + r * stride, min(k, vocab)) for r, k in wanted]
        return sampling_native.score_rows(threads, rows, vocab)
    return [_score(values[r], min(k, vocab)) for r, k in wanted]


def _score(x: Logits, k: int) -> Score:
    best = float(x.max())
    if not np.isfinite(best):
        return Score(best, 0, [])
    ids = largest(x, k)
    order = np.argsort(-x[ids], kind="stable")
    return Score(best, int(weights(x, 1.0).sum()), ids[order].tolist())


def _layout(x: Logits) -> tuple[int, int]:
    """The address of an array whose last axis is dense, and the bytes from row to row."""
    assert x.strides[-1] == x.itemsize
    return x.ctypes.data, x.strides[0]


# --- in numpy ---


def _draw(x: Logits, row: Row) -> list[int]:
    """One token for each choice, by inverse CDF over the kept tokens in order of their ids."""
    ids, kept_weights = _kept(x, row)
    cdf = np.cumsum(kept_weights)
    total = int(cdf[-1])
    tokens = []
    for choice in row.choices:
        # below total, so there is a first entry above it, and its own weight is not 0
        mark = int(uniform(row.seed, choice, row.position) * 2.0**53) * total >> 53
        i = int(np.searchsorted(cdf, mark, side="right"))
        tokens.append(i if ids is None else int(ids[i]))
    return tokens


def kept(x: Logits, params: SamplingParams) -> tuple[Ints | None, Ints]:
    """What temperature, min_p, top_k and top_p leave of ``x`` [V]: ids, ascending, and their weights.

    ids None stands for the whole vocabulary.
    """
    return _kept(x, _pack(0, SampleRow(params, 0, [0], [], 0)))


def _kept(x: Logits, row: Row) -> tuple[Ints | None, Ints]:
    ids: Ints | None = None
    if 0 < row.top_k < len(x):
        # before min_p, for speed: both drop the least likely, so their order does not matter
        ids = largest(x, row.top_k)
        x = x[ids]
    w = weights(x, row.heat, row.least)
    if row.top_p < 1.0:
        keep = nucleus(w, row.top_p)
        ids, w = (keep if ids is None else ids[keep]), w[keep]
    return ids, w


# --- log-probabilities ---


def _logprob(raw: Logits, token: int, score: Score) -> float:
    return float(raw[token]) - score.best - log_of(score.mass) if score.mass else -math.inf


def _top(raw: Logits, score: Score) -> Top:
    return [(i, _logprob(raw, i, score)) for i in score.ids]
