"""What is worked out of answers: rates, gaps, goodput, ratios. Knows no socket, no clock and no system."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from measure import Middle, percentile
from peer_client import Answer, PeerFailed

Figures = dict[str, float]  # of one system in one round; seconds, or a second


@dataclass(frozen=True, slots=True)
class Slo:
    """Seconds that a request may take to its first token, and for each later one."""

    ttft: float = 1.5
    tpot: float = 0.1
    share: float = 0.9  # of the requests

    def met(self, answer: Answer) -> bool:
        if not answer.done or answer.ttft is None:
            return False
        return answer.ttft <= self.ttft and (answer.tpot or 0.0) <= self.tpot

    def missed(self, answer: Answer, now: float) -> bool:
        """It can meet the targets no more."""
        if answer.done or answer.error:
            return not self.met(answer)
        return answer.ttft is None and now - answer.began > self.ttft

    def may_miss(self, offered: int) -> int:
        return offered - math.ceil(self.share * offered - 1e-9)


def served(answers: Sequence[Answer], seconds: float) -> Figures:
    """Of a closed loop. Failed requests count in no figure but ``failed``. Raises PeerFailed if
    all did.
    """
    good = [a for a in answers if a.done]
    if not good:
        raise PeerFailed(f"no request was answered: {answers[0].error if answers else 'none was sent'}")
    return {
        "tokens_per_s": sum(a.tokens for a in good) / seconds,
        "ttft_p50": median(a.ttft for a in good if a.ttft is not None),
        "tpot_p50": median(a.tpot for a in good if a.tpot is not None),
        "failed": float(len(answers) - len(good)),
    }


def streams(answers: Sequence[Answer], start: float, end: float) -> Figures:
    """Of streams that decode during the whole window. A gap belongs to the window if it ends in it; one
    that is still open at the end counts with what it has lasted if it is its stream's longest: else a stream
    that has stopped would look smooth.
    """
    gaps: list[float] = []
    tokens = 0
    for answer in answers:
        mine = [b - a for a, b in zip(answer.moments, answer.moments[1:], strict=False) if start < b <= end]
        before = [m for m in answer.moments if m <= end]
        waits = end - before[-1] if before else end - start
        gaps += mine + ([waits] if waits > max(mine, default=0.0) else [])
        tokens += tokens_at(answer, end) - tokens_at(answer, start)
    return {
        "tokens_per_s": tokens / (end - start),
        "itl_p50": median(gaps),
        "itl_p99": percentile(gaps, 0.99),
        "itl_max": max(gaps),
        "broken": float(sum(bool(a.error) for a in answers)),
    }


def tokens_at(answer: Answer, moment: float) -> int:
    index = bisect_right(answer.moments, moment)
    return answer.counts[index - 1] if index else 0


def first_tokens(answers: Sequence[Answer], now: float) -> Figures:
    """TTFT of requests of an open loop; one without a token has waited until ``now``: ``unanswered``."""
    waited = [now - a.began if a.ttft is None else a.ttft for a in answers]
    return {
        "long_ttft_p50": median(waited),
        "long_ttft_max": max(waited),
        "long_requests": float(len(answers)),
        "long_unanswered": float(sum(a.ttft is None for a in answers)),
    }


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds at which the requests of a Poisson process come. One seed is one pattern, whatever the rate."""
    pick, at, found = random.Random(seed), 0.0, []
    for _ in range(count):
        at += pick.expovariate(1.0) / rate
        found.append(at)
    return found


@dataclass(slots=True)
class Search:
    """Bisection, by factors, for the largest rate that is good; ``low`` is 0 if not even ``least`` is."""

    least: float
    most: float
    factor: float  # how near the answer must come
    low: float = 0.0  # the largest that was good
    high: float = math.inf  # the smallest that was not

    def next(self) -> float | None:
        """The rate to try, or None if the answer is ``low``."""
        if self.low == 0.0 and self.high > self.least:
            return self.least
        if self.low == 0.0 or self.low >= self.most or self.high / self.low <= self.factor:
            return None
        return min(self.most, self.low * 2) if self.high == math.inf else math.sqrt(self.low * self.high)

    def tell(self, rate: float, good: bool) -> None:
        if good:
            self.low = max(self.low, rate)
        else:
            self.high = min(self.high, rate)


def against(mine: Sequence[Figures], others: Sequence[Figures], what: str) -> Middle | None:
    """``what`` of the one over that of the other, round by round; None where one of them has none."""
    pairs = [
        (a[what], b[what])
        for a, b in zip(mine, others, strict=True)
        if what in a and what in b and b[what] > 0
    ]
    return Middle.of(a / b for a, b in pairs) if pairs else None


def best(rounds: Mapping[str, Sequence[Figures]], what: str, more_is_better: bool) -> str | None:
    """The system whose median of ``what`` is best."""
    found = {
        name: median(f[what] for f in figures if what in f)
        for name, figures in rounds.items()
        if any(what in f for f in figures)
    }
    if not found:
        return None
    return (max if more_is_better else min)(found, key=lambda name: found[name])
