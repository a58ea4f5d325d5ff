"""The requests of the exactness tests: short and long, shared prefixes, greedy and sampled, n of 1 and 2."""

from __future__ import annotations

from typing import Any

from pagewire.rng import uniform
from pagewire.sampling import SamplingParams

Request = tuple[list[int], dict[str, Any]]


def requests(vocab: int, count: int = 64, longest: int = 2000, new: int = 24) -> list[Request]:
    """Token-id prompts with the parameters of /v1/completions; the same every time."""
    shared = [draw(vocab, 0, i) for i in range(longest // 3)]
    found = []
    for i in range(count):
        length = max(1, round((i / (count - 1)) ** 3 * longest))
        own = [draw(vocab, i + 1, j) for j in range(length)]
        tokens = (shared + own)[:length] if i % 3 == 0 else own
        sampled = {"temperature": 0.8, "top_p": 0.95, "frequency_penalty": 0.2, "seed": 1000 + i}
        params: dict[str, Any] = {"max_tokens": new, "n": 2 if i % 8 == 1 else 1}
        found.append((tokens, params | (sampled if i % 2 else {"temperature": 0.0})))
    return found


def draw(vocab: int, stream: int, index: int) -> int:
    return int(uniform(99, stream, index) * (vocab - 100)) + 50


def sampling(params: dict[str, Any]) -> SamplingParams:
    return SamplingParams(**params)
