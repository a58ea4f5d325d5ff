"""Weights on disk, or made up, into a Decoder. ``load_model`` is the door; each format is a module of its
own.
"""

from __future__ import annotations

from pagewire.engine.weights.load import LOAD_FORMATS, Progress, load_model, quantization_for

__all__ = ["LOAD_FORMATS", "Progress", "load_model", "quantization_for"]
