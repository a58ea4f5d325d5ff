"""Choosing tokens on the GPU. In the making: for now what a draw depends on, as tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DeviceRows(NamedTuple):
    """N tokens to choose: tensors [N]. All zero is the place of the largest logit of row 0."""

    heat: Tensor  # float32, 1 / temperature; 0: the place of the largest logit
    top_p: Tensor  # float64; 1 and above: no limit
    top_k: Tensor  # int64; 0 and below, V and above: no limit
    least: Tensor  # int64, kernels.sampling.least_weight(min_p)
    seed: Tensor  # int64, the seed's 64 bits
    position: Tensor  # int64, absolute
    choice: Tensor  # int64
    row: Tensor  # int64, of the logits
