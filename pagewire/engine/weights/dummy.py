"""Made-up weights: the same for the same shapes on every host, and tame enough that logits are ordinary
numbers.

Knows names and shapes; reads no file. For trying out a deployment, and for tests, before any download.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b

import torch
from torch import Tensor


def tensors(shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    """float32 tensors on the CPU; each is drawn from a generator seeded by its name alone."""
    for name, shape in shapes.items():
        yield name, _draw(name, shape)


def _draw(name: str, shape: torch.Size) -> Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    seed = int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "little")
    generator = torch.Generator().manual_seed(seed)
    # Uniform with variance 1 / columns, so that a product keeps the scale of its input.
    bound = (3.0 / shape[-1]) ** 0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
