"""Fill a Decoder from one of the formats, and refuse a checkpoint that does not fit it, tensor by tensor.

Knows names and shapes; knows no file format. A tensor is held twice only while it is copied to its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pagewire.engine.int8_decoder import Int8Decoder
from pagewire.engine.model import Decoder
from pagewire.engine.weights import dummy, gguf_file, safetensors_files
from pagewire.errors import ConfigError, ModelError
from pagewire.hub import ModelSource
from pagewire.model_config import ModelConfig

LOAD_FORMATS = ("auto", "dummy")
QUANTIZATIONS: dict[str, type[Decoder]] = {"none": Decoder, "int8": Int8Decoder}
Progress = Callable[[int, int], None]
NamedTensor = tuple[str, Tensor]


def load_model(
    source: ModelSource | None,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    load_format: str = "auto",
    progress: Progress | None = None,
    positions: int | None = None,
    quantization: str = "none",
) -> Decoder:
    """Build the model and fill its weights, converted to ``dtype``.

    ``load_format`` "dummy" makes weights up, and needs no ``source``. ``progress(done, total)`` is called
    with bytes of the model in memory. ``positions``: length of the rotary table, by default the model's
    context length. ``quantization`` "int8" computes in int8 on a CPU. Raises ConfigError, and ModelError
    naming the tensor that is missing, unexpected or of another shape.
    """
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"--quantization {quantization}: use {' or '.join(QUANTIZATIONS)}")
    if load_format not in LOAD_FORMATS:
        raise ConfigError(f"--load-format {load_format}: use {' or '.join(LOAD_FORMATS)}")
    decoder = QUANTIZATIONS[quantization](config, dtype, torch.device(device), positions)
    if load_format == "dummy":
        tensors = dummy.tensors({name: place.shape for name, place in decoder.named_weights().items()})
    elif source is None:
        raise ConfigError("a model without files can only have dummy weights")
    elif source.is_gguf:
        tensors = gguf_file.tensors(source.path, config)
    else:
        tensors = safetensors_files.tensors(source.path)
    fill(decoder, tensors, progress)
    decoder.pack()
    return decoder


def fill(decoder: Decoder, tensors: Iterable[NamedTensor], progress: Progress | None = None) -> None:
    """Copy every tensor to its place in a decoder that is not packed yet."""
    places = decoder.named_weights()
    missing = dict(places)
    done, total = 0, sum(place.nbytes for place in places.values())
    for name, tensor in tensors:
        place = missing.pop(name, None)
        if place is None:
            _refuse_unexpected(name, places)
            continue
        if place.shape != tensor.shape:
            raise ModelError(f"the tensor {name} has shape {list(tensor.shape)}, not {list(place.shape)}")
        place.copy_(tensor)
        done += place.nbytes
        if progress is not None:
            progress(done, total)
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ModelError(f"the checkpoint has no tensor {min(missing)}{more}")


def _refuse_unexpected(name: str, places: dict[str, Tensor]) -> None:
    """Old checkpoints keep rotary frequencies, and tied ones a copy of the embedding; both follow from the
    config.
    """
    tied_head = name == "lm_head.weight" and "lm_head.weight" not in places
    if not tied_head and not name.endswith("rotary_emb.inv_freq"):
        kind = "twice the" if name in places else "an unexpected"
        raise ModelError(f"the checkpoint has {kind} tensor {name}")
