"""What was measured of a case against what could have been: share of the ceiling, ratio to the best peer, and
whether its target was met. Knows numbers; prints nothing but their text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.conductor import Outcome

UNITS = {"copy": "GB/s", "h2d": "GB/s", "d2h": "GB/s", "bf16": "TFLOP/s", "fp8": "TFLOP/s", "int8": "TFLOP/s"}


@dataclass(frozen=True)
class Row:
    section: str
    kernel: str
    shape: str
    trouble: str = ""  # wrong, or failed: then there are no times
    us: float = 0.0
    rate: float = 0.0
    unit: str = ""
    share: float | None = None  # of the ceiling
    ratio: float | None = None  # the best peer's time over ours
    peer: str = ""
    error: float | None = None
    spread: float = 0.0
    target: str = ""
    met: bool | None = None
    how: str = ""
    tuned: bool = False
    peers: str = ""


def floor_us(
    ceilings: Mapping[str, float], nbytes: int, flops: int, moves: str, rate: str
) -> tuple[float, str]:
    """The least time for so many bytes and operations, and what bounds it; 0 where nothing is known."""
    by_bytes = nbytes / ceilings[moves] / 1e3 if moves in ceilings else 0.0
    by_flops = flops / ceilings[rate] / 1e6 if rate in ceilings else 0.0
    return max((by_bytes, moves), (by_flops, rate))


def rows(outcome: Outcome) -> list[Row]:
    """In the order of the cases, but those of a kernel together; readings left out."""
    events = sorted(
        (each for each in outcome.results if "figures" not in each), key=lambda each: each["index"]
    )
    first: dict[str, int] = {}
    for place, event in enumerate(events):
        first.setdefault(event["kernel"], place)
    return [_row(outcome, event) for event in sorted(events, key=lambda each: first[each["kernel"]])]


def _row(outcome: Outcome, event: dict[str, Any]) -> Row:
    at = (outcome.name, event["kernel"], event["shape"])
    if "why" in event:
        return Row(*at, trouble=f"FAILED {event['why']}")
    error = event["error"]
    if not event["ok"]:
        what = "NaN" if error is None else f"{error:.1e}"
        return Row(*at, trouble=f"WRONG by {what}, tolerance {event['tolerance']:.0e}", error=error)
    floor, bound = floor_us(outcome.ceilings, *(event[name] for name in ("nbytes", "flops", "moves", "rate")))
    us, peers = event["us"], event["peers"]
    best = min(peers, key=lambda name: peers[name]["ratio"], default="")
    share = floor / us if floor else None
    ratio = peers[best]["ratio"] if best else None
    amount = event["nbytes"] / us / 1e3 if UNITS[bound] == "GB/s" else event["flops"] / us / 1e6
    target, met = _target(event["target"], share, ratio)
    return Row(
        *at,
        us=us,
        rate=amount,
        unit=UNITS[bound],
        share=share,
        ratio=ratio,
        peer=best,
        error=error,
        spread=event["spread"],
        target=target,
        met=met,
        how=event["how"],
        tuned="tuned" in event,
        peers="; ".join(
            [f"{name} {each['us']:.1f} us ({each['ratio']:.2f}x)" for name, each in peers.items()]
            + [f"{name} does not run: {why}" for name, why in event["refused"].items()]
        ),
    )


def _target(
    target: dict[str, Any] | None, share: float | None, ratio: float | None
) -> tuple[str, bool | None]:
    if target is None:
        return "", None
    got = share if target["of"] == "ceiling" else ratio
    wanted = f"{target['ratio']:.0%}" if target["of"] == "ceiling" else f"{target['ratio']:.2f}x"
    return wanted, None if got is None else got >= target["ratio"]
