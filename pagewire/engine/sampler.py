"""Choosing tokens: from a row of logits and sampling parameters to the next token of each choice.

Knows logits, parameters and the tokens so far; knows no model, no page and no batch composition. A row's
result is bitwise the same whatever its neighbours and the thread count: a greedy row's maximum is exact in
any order, and all else is done one row at a time, in float64, on the host. A draw is a function of (seed,
choice, absolute position).

The meaning of each parameter and the order in which they act are vLLM's: min_tokens and logit_bias;
repetition, frequency and presence penalties; temperature; min_p; top_k; top_p. Log-probabilities are those of
the model's raw distribution, before any of that (vLLM's ``raw_logprobs``). Ties go to the lower token id
everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pagewire.engine.sequence import Sequence
from pagewire.rng import uniform
from pagewire.sampling import SamplingParams

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Top = list[tuple[int, float]]  # (token id, log-probability), most likely first


class Sampled(NamedTuple):
    """The next token of one choice; if asked for, its log-probability and the most likely tokens'."""

    token: int
    logprob: float | None = None
    top: Top = []  # noqa: RUF012


class InvalidLogits(NamedTuple):
    """In place of a row's result: nothing can be chosen from it. It says nothing about the other rows."""

    reason: str


class SampleRow(NamedTuple):
    """What choosing the next token of one sequence depends on, its logits aside. ``tokens`` is borrowed."""

    params: SamplingParams
    seed: int
    choices: Many[int]
    tokens: Many[int]  # prompt and output so far; the new token's absolute position is their number
    num_prompt: int
    banned: tuple[int, ...] = ()  # ids that may not be chosen yet (min_tokens)

    @classmethod
    def of(cls, seq: Sequence, eos_token_ids: Many[int]) -> SampleRow:
        params = seq.sampling
        early = seq.num_output < params.min_tokens
        banned = (*eos_token_ids, *params.stop_token_ids) if early else ()
        return cls(params, seq.seed, seq.choices, seq.tokens, seq.num_prompt, banned)

    @property
    def plain(self) -> bool:
        """True if the answer is no more than where the largest logit is."""
        p = self.params
        return p.greedy and not (p.penalised or p.logit_bias or self.banned) and p.logprobs is None


def sample(logits: Tensor, rows: Many[SampleRow]) -> list[list[Sampled] | InvalidLogits]:
    """For row r of ``logits`` [R, V], float32, a Sampled for each of ``rows[r].choices``, in order.

    ``logits`` is not changed. A row that holds NaN or +inf, or leaves no token to choose, gives
    InvalidLogits.
    """
    assert logits.shape[0] == len(rows)
    results: list[list[Sampled] | InvalidLogits] = [InvalidLogits("")] * len(rows)
    plain = [r for r, row in enumerate(rows) if row.plain]
    other = [r for r, row in enumerate(rows) if not row.plain]
    for r, token in zip(plain, greedy_tokens(_take(logits, plain)), strict=True):
        if token is None:
            results[r] = InvalidLogits("the logits are not finite")
        else:
            results[r] = [Sampled(token, None, []) for _ in rows[r].choices]
    for r, values in zip(other, _take(logits, other).float().cpu().numpy(), strict=True):
        results[r] = _sample_row(values.astype(np.float64), rows[r])
    return results


def score_prompt(logits: Tensor, following: Many[int], k: int) -> tuple[list[float], list[Top]]:
    """Log-probability of each of ``following`` [T] in its row of ``logits`` [T, V], and the k most likely.

    A row that holds NaN or +inf gives -inf and an empty list.
    """
    assert logits.shape[0] == len(following)
    scores: list[float] = []
    tops: list[Top] = []
    for values, token in zip(logits.float().cpu().numpy(), following, strict=True):
        raw = values.astype(np.float64)
        if np.isfinite(raw.max()):
            norm = _log_sum_exp(raw)
            scores.append(float(raw[token] - norm))
            tops.append(_top(raw, norm, k))
        else:
            scores.append(-np.inf)
            tops.append([])
    return scores, tops


def greedy_tokens(logits: Tensor) -> list[int | None]:
    """[R, V] -> R: the lowest id of each row's maximum; None where that is not a finite number."""
    if logits.shape[0] == 0:
        return []
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        values = logits.numpy()
        ids = values.argmax(axis=1)  # numpy promises the first of equals, and that NaN is the largest
        best = values[np.arange(len(ids)), ids]
        return [int(i) if ok else None for i, ok in zip(ids, np.isfinite(best), strict=True)]
    return _greedy_on_device(logits)


def _greedy_on_device(logits: Tensor) -> list[int | None]:
    # torch.argmax promises nothing about ties
    best = logits.amax(dim=1, keepdim=True)
    index = torch.arange(logits.shape[1], device=logits.device)
    first = torch.where(logits == best, index, logits.shape[1]).amin(dim=1)
    finite = best.isfinite().flatten().tolist()
    return [i if ok else None for i, ok in zip(first.tolist(), finite, strict=True)]


def _take(logits: Tensor, rows: list[int]) -> Tensor:
    return logits if len(rows) == logits.shape[0] else logits[rows]


def _sample_row(raw: Floats, row: SampleRow) -> list[Sampled] | InvalidLogits:
    if not np.isfinite(raw.max()):
        return InvalidLogits("the logits are not finite")
    x = adjusted(raw, row)
    best = int(x.argmax())
    if not np.isfinite(x[best]):
        return InvalidLogits("no token is left to choose from")
    tokens = [best] * len(row.choices) if row.params.greedy else _draw(x, row)
    k = row.params.logprobs
    if k is None:
        return [Sampled(token, None, []) for token in tokens]
    norm = _log_sum_exp(raw)
    return [Sampled(token, float(raw[token] - norm), _top(raw, norm, k)) for token in tokens]


def adjusted(raw: Floats, row: SampleRow) -> Floats:
    """Logits [V] after min_tokens, logit_bias and the penalties; ``raw`` itself if none of them acts.

    Repetition counts prompt and output (positive logits are divided, others multiplied); frequency and
    presence count the output alone.
    """
    params = row.params
    if not (params.penalised or params.logit_bias or row.banned):
        return raw
    x = raw.copy()
    x[[i for i in row.banned if 0 <= i < len(x)]] = -np.inf
    for token, bias in params.logit_bias.items():
        x[token] += bias
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.asarray(row.tokens, dtype=np.int64))
        r = params.repetition_penalty
        x[seen] = np.where(x[seen] > 0, x[seen] / r, x[seen] * r)
    if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
        output = np.asarray(row.tokens[row.num_prompt :], dtype=np.int64)
        ids, counts = np.unique(output, return_counts=True)
        x[ids] -= params.frequency_penalty * counts
        x[ids] -= params.presence_penalty
    return x


def _draw(x: Floats, row: SampleRow) -> list[int]:
    """One token for each choice, by inverse CDF over the kept tokens in order of their ids."""
    ids, weights = kept(x, row.params)
    cdf = np.cumsum(weights)
    tokens = []
    for choice in row.choices:
        u = uniform(row.seed, choice, len(row.tokens))
        # u * total < total for every u < 1, so there is a first entry above it, and its own weight is not 0
        i = int(np.searchsorted(cdf, u * cdf[-1], side="right"))
        tokens.append(i if ids is None else int(ids[i]))
    return tokens


def kept(x: Floats, params: SamplingParams) -> tuple[Ids | None, Floats]:
    """What temperature, min_p, top_k and top_p leave of ``x`` [V]: ids, ascending, and relative weights.

    ids None stands for the whole vocabulary. Nothing of size V is sorted unless top_p alone cuts a
    distribution so flat that it must be.
    """
    x = (x - x.max()) / params.temperature  # <= 0; the largest is 0
    ids: Ids | None = None
    if 0 < params.top_k < len(x):
        # before min_p, for speed: both drop the least likely, so their order does not matter
        ids = _largest(x, params.top_k)
        x = x[ids]
    weights: Floats = np.exp(x)
    if params.min_p > 0.0:
        ids, weights = _subset(ids, weights, np.flatnonzero(weights >= params.min_p))
    if params.top_p < 1.0:
        ids, weights = _subset(ids, weights, _nucleus(weights, params.top_p))
    return ids, weights


def _subset(ids: Ids | None, weights: Floats, keep: Ids) -> tuple[Ids, Floats]:
    return (keep if ids is None else ids[keep]), weights[keep]


def _largest(x: Floats, k: int) -> Ids:
    """Ids, ascending, of the k largest of ``x``, 0 < k < len(x), or k = len(x)."""
    if k >= len(x):
        return np.arange(len(x))
    return _cut(x, k, np.partition(x, len(x) - k)[len(x) - k])


def _cut(x: Floats, k: int, kth: np.float64) -> Ids:
    """Ids, ascending, of the k largest of ``x``, given that the k-th largest value is ``kth``."""
    at_least = np.flatnonzero(x >= kth)
    if len(at_least) == k:
        return at_least
    above = np.flatnonzero(x > kth)
    ties = at_least[x[at_least] == kth][: k - len(above)]
    return np.sort(np.concatenate([above, ties]))


def _nucleus(weights: Floats, top_p: float) -> Ids:
    """Ids, ascending, of the fewest largest weights that hold ``top_p`` of the whole.

    V weights below (1 - top_p) * whole / V hold less than 1 - top_p together, so the rest is enough to look
    at.
    """
    whole = weights.sum()
    floor = (1.0 - top_p) * whole / len(weights) * (1 - 1e-9)
    largest_first = np.sort(weights[weights >= floor])[::-1]
    count = int(np.searchsorted(np.cumsum(largest_first), top_p * whole, side="left")) + 1
    count = min(count, len(largest_first))
    return _cut(weights, count, largest_first[count - 1])


def _log_sum_exp(raw: Floats) -> float:
    best = raw.max()
    return float(best + np.log(np.exp(raw - best).sum()))


def _top(raw: Floats, norm: float, k: int) -> Top:
    if k == 0:
        return []
    ids = _largest(raw, min(k, len(raw)))
    order = np.argsort(-raw[ids], kind="stable")
    return [(int(i), float(raw[i] - norm)) for i in ids[order]]
