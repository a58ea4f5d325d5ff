"""Fill a Decoder from one of the formats, and refuse a checkpoint that does not fit it, tensor by tensor.

Knows names and shapes; knows no file format. A tensor is held twice only while it is copied to its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kernels import native_library as native
from pagewire.engine.model import Decoder
from pagewire.engine.packed_decoder import ACTIVATION_BITS, AnyDecoder, PackedDecoder, PackedRows, Place
from pagewire.engine.weights import cache, dummy, gguf_file, safetensors_files
from pagewire.errors import ConfigError, ModelError
from pagewire.hub import ModelSource
from pagewire.model_config import ModelConfig

_log = logging.getLogger("pagewire.weights")
LOAD_FORMATS = ("auto", "dummy")
QUANTIZATIONS = ("auto", "none", "int8", "gguf")
Progress = Callable[[int, int], None]
NamedTensor = tuple[str, Tensor | native.Grouped]


def quantization_for(
    quantization: str, source: ModelSource | None, config: ModelConfig, dtype: str, device: torch.device
) -> str:
    """What "auto" stands for: "none" on a GPU or where a ``dtype`` is named; else the file's own codes for a
    GGUF file, or int8. "none" too where the native kernels cannot compute the model. Raises ConfigError.
    """
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"--quantization {quantization}: use {', '.join(QUANTIZATIONS)}")
    in_gguf = source is not None and source.is_gguf
    if quantization == "gguf" and not in_gguf:
        raise ConfigError("--quantization gguf keeps the codes of a GGUF file, and this model is none")
    if quantization not in ("auto", "none") and (device.type != "cpu" or dtype not in ("auto", "float32")):
        raise ConfigError(f"--quantization {quantization} is computed on a CPU, with --dtype float32")
    if quantization != "auto":
        return quantization
    native_can = native.available() and config.head_dim % native.LANES == 0
    if device.type != "cpu" or dtype != "auto" or not native_can:
        return "none"
    return "gguf" if in_gguf else "int8"


def load_model(
    source: ModelSource | None,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    load_format: str = "auto",
    progress: Progress | None = None,
    positions: int | None = None,
    quantization: str = "none",
    activation_bits: str = "auto",
    *,
    deterministic: bool = False,
) -> AnyDecoder:
    """Build the model and fill its weights, converted to ``dtype``.

    ``load_format`` "dummy" makes weights up, and needs no ``source``. ``progress(done, total)`` is called
    with bytes of the model in memory. ``positions``: length of the rotary table, by default the model's
    context length. ``quantization`` is what ``quantization_for`` says, ``activation_bits`` what
    ``PackedDecoder`` says, ``deterministic`` what ``Decoder`` does. Packed weights come from an earlier
    start's file where there is one (``cache``).
    Raises ConfigError, and ModelError naming the tensor that is missing, unexpected or of another shape.
    """
    if activation_bits not in ACTIVATION_BITS:
        raise ConfigError(f"--activation-bits {activation_bits}: use {' or '.join(ACTIVATION_BITS)}")
    if load_format not in LOAD_FORMATS:
        raise ConfigError(f"--load-format {load_format}: use {' or '.join(LOAD_FORMATS)}")
    if source is None and load_format != "dummy":
        raise ConfigError("a model without files can only have dummy weights")
    files = None if load_format == "dummy" else source
    if quantization == "none":
        decoder = Decoder(config, dtype, torch.device(device), positions, deterministic=deterministic)
        fill(decoder.named_weights(), _tensors(files, config, decoder, keep=False), progress)
        decoder.pack()
        return decoder
    keep = quantization == "gguf"
    bits = gguf_file.bits(files.path) if keep and files else {}
    make = partial(PackedDecoder, config, bits, activation_bits, positions)
    path = cache.path_for(files, quantization) if files else None
    mapped = _mapped(make, path, progress)
    if mapped is not None:
        return mapped
    fresh = cache.Fresh()
    packed = make(fresh.take)
    fill(packed.named_weights(), _tensors(files, config, packed, keep=keep), progress)
    if path is not None:
        fresh.save(path)
    return packed


def _mapped(
    make: Callable[[native.Take], PackedDecoder], path: Path | None, progress: Progress | None
) -> PackedDecoder | None:
    """With the weights that an earlier start has packed, if they are there."""
    if path is None or not path.exists():
        return None
    try:
        decoder = make(cache.Mapped(path).take)
    except (OSError, ValueError) as error:
        _log.warning("%s, from an earlier start, is made anew: %s", path, error)
        return None
    if progress is not None:
        size = path.stat().st_size
        progress(size, size)
    return decoder


def _tensors(
    source: ModelSource | None, config: ModelConfig, decoder: AnyDecoder, *, keep: bool
) -> Iterable[NamedTensor]:
    if source is None:
        return dummy.tensors({name: place.shape for name, place in decoder.named_weights().items()})
    if source.is_gguf:
        return gguf_file.tensors(source.path, config, keep=keep)
    return safetensors_files.tensors(source.path)


def fill(
    places: Mapping[str, Place], tensors: Iterable[NamedTensor], progress: Progress | None = None
) -> None:
    """Copy every tensor to its place."""
    missing = dict(places)
    done, total = 0, sum(place.nbytes for place in places.values())
    for name, tensor in tensors:
        place = missing.pop(name, None)
        if place is None:
            _refuse_unexpected(name, places)
            continue
        if place.shape != tensor.shape:
            raise ModelError(f"the tensor {name} has shape {list(tensor.shape)}, not {list(place.shape)}")
        if isinstance(place, PackedRows):
            place.copy_(tensor)
        else:
            place.copy_(tensor if isinstance(tensor, Tensor) else tensor.float())
        done += place.nbytes
        if progress is not None:
            progress(done, total)
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ModelError(f"the checkpoint has no tensor {min(missing)}{more}")


def _refuse_unexpected(name: str, places: Mapping[str, Place]) -> None:
    """Old checkpoints keep rotary frequencies, and tied ones a copy of the embedding; both follow from the
    config.
    """
    tied_head = name == "lm_head.weight" and "lm_head.weight" not in places
    if not tied_head and not name.endswith("rotary_emb.inv_freq"):
        kind = "twice the" if name in places else "an unexpected"
        raise ModelError(f"the checkpoint has {kind} tensor {name}")
