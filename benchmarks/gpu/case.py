"""What a section of the GPU benchmark measures, in the form that the harness runs.

A section is a module ``benchmarks/gpu/section_<name>.py`` with ``cases(world)``, a generator of ``Case`` and
``Reading``. Two constants of the module, both optional, are read from its text: ``WEIGHT = 2`` asks for twice
the time of the others, ``ALONE = True`` says that it needs the whole card, so that its kernels are not
compiled ahead beside those of other sections. Knows numbers and callables; times nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class World:
    """Where a section runs. ``tiny``: shapes for the interpreter, where only correctness can be seen.
    ``ceilings``: what this process measured at its start, GB/s of copy, h2d, d2h and TFLOP/s of bf16, fp8,
    int8; some may be missing, and all are when cases are only listed or compiled ahead."""

    device: torch.device
    tiny: bool = False
    ceilings: Mapping[str, float] = field(default_factory=dict)

    def pick(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full


@dataclass(frozen=True)
class Target:
    """``ratio`` of what: the ceiling (copy bandwidth or matrix rate, whichever bounds the case) or the best
    peer."""

    of: Literal["ceiling", "peer"]
    ratio: float


@dataclass(frozen=True)
class Tune:
    """Launch parameters worth trying for one entry of ``kernels.tuned``."""

    kernel: str
    shape: Mapping[str, int]
    uses: Sequence[Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kernel at one shape.

    ``runs``: the same launch on several sets of inputs, taken in turn so that no cache answers in place of
    the memory; together they should exceed 100 MB where ``nbytes`` are fewer. ``wrong``: the relative error
    ``||out - ref|| / ||ref||`` of a launch into poisoned memory against a reference in float64, NaN if
    anything was left unwritten. ``nbytes``: the fewest that must be read and written; ``flops``: the fewest
    operations, a multiplication and an addition counting as two. ``peers``: other ways to the same result;
    a sequence is taken in turn like ``runs``. Where ``runs`` are several and a peer is one, the ratio of the
    two is taken between launches that all find their inputs in the cache.
    """

    kernel: str
    shape: str
    runs: Sequence[Run]
    wrong: Callable[[], float]
    tolerance: float
    nbytes: int
    flops: int
    rate: Literal["bf16", "fp8", "int8"] = "bf16"  # which matrix rate bounds its operations
    moves: Literal["copy", "h2d", "d2h"] = "copy"  # which copy bounds its bytes
    peers: Mapping[str, Run | Sequence[Run]] = field(default_factory=dict)
    target: Target | None = None
    tune: Tune | None = None
    graph: bool = True  # timed as replays of a captured graph, so that launches cost nothing


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Figures that a section takes in a way of its own, such as those of several processes: by name, with the
    unit in the name. They are printed as they are; ``at_most`` are the targets of some. Nothing may be said
    for a minute and a half while one is read or built."""

    kernel: str
    shape: str
    read: Callable[[], Mapping[str, float | int | str]]
    at_most: Mapping[str, float] = field(default_factory=dict)


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """NaN if ``out`` has one anywhere."""
    out, reference = out.double(), reference.double()
    return float((out - reference).norm() / reference.norm())
