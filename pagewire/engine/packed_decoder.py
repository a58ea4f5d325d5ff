"""The decoder on a CPU with weights of 8 or 4 bits: the face of ``Decoder``, computed by the native kernels.

Its weights are packed from the start, so that loading needs no memory but theirs. Where the head is tied to
the embedding, both are one weight of 8 bits. Knows the forms of the native library; knows no file, step or
sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import native_library as native
from kernels.attention import AttentionMeta
from kernels.embedding import resolve
from pagewire.engine.model import Decoder
from pagewire.engine.rope_scaling import rope_table
from pagewire.errors import ConfigError
from pagewire.model_config import ModelConfig

ACTIVATION_BITS = {"auto": 0, "8": 8, "16": 16}  # what users say, and the kernels


class PackedRows(NamedTuple):
    """Rows [first, first + rows) of a packed weight: a place to be filled, like a view of a tensor."""

    packed: native.Packed
    first: int
    rows: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.rows, self.packed.k))

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes * self.rows // self.packed.n

    def copy_(self, weight: Tensor | native.Grouped) -> None:
        if isinstance(weight, native.Grouped) and weight.bits != self.packed.bits:
            weight = weight.float()
        self.packed.put(self.first, weight)


Place = Tensor | PackedRows


class PackedDecoder:
    """Made empty and filled through ``named_weights``, or made of the packed weights that ``take`` gives.

    ``bits`` names the weights that come in 4 bits, as ``Grouped``; all others are kept in 8. What the former
    are multiplied with is rounded to ``activation_bits``: "8", "16", or "auto", which is 16 for the groups
    of a row that hold its largest numbers and 8 for the others. For the latter it is 16 always. Raises
    ConfigError where the native kernels cannot compute the model.
    """

    def __init__(
        self,
        config: ModelConfig,
        bits: Mapping[str, int],
        activation_bits: str = "auto",
        positions: int | None = None,
        take: native.Take = native.zeros,
    ) -> None:
        if not native.available():
            raise ConfigError(
                "weights of 8 or 4 bits need the CPU kernels: install a C++ compiler, then pagewire again"
            )
        if config.head_dim % native.LANES:
            raise ConfigError(
                f"weights of 8 or 4 bits need a head_dim that is a multiple of {native.LANES},"
                f" not {config.head_dim}"
            )
        self.config, self.dtype, self.device = config, torch.float32, torch.device("cpu")
        self._row_bits, self._take = ACTIVATION_BITS[activation_bits], take
        self._named: dict[str, Place] = {}
        self._head = self._linear("lm_head", config.vocab_size, bits={})
        self._embed: Tensor | None = None
        if config.tie_embeddings:
            self._named["model.embed_tokens.weight"] = self._named.pop("lm_head.weight")
        else:
            self._embed = self._vector("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        self._norm = self._vector("model.norm.weight", config.hidden_size)
        layers = [self._layer(index, bits) for index in range(config.layers)]
        self._layers = native.Layers(layers)
        table = rope_table(config, positions or config.context_length)
        self._turns = torch.from_numpy(table.cos), torch.from_numpy(table.sin)  # float32 [positions, D / 2]
        self._shape = native.Shape(
            config.hidden_size, config.heads, config.kv_heads, config.head_dim, 2 * table.cos.shape[1],
            config.intermediate_size, config.rms_norm_eps, config.head_dim**-0.5,
        )  # fmt: skip
        self.threads = native.Threads(torch.get_num_threads())

    def named_weights(self) -> Mapping[str, Place]:
        """Where each tensor of a HuggingFace checkpoint belongs."""
        return self._named

    def packed(self) -> Iterator[native.Packed]:
        """Every weight that is multiplied with."""
        yield self._head
        for layer in self._layers.layers:
            yield from layer.linears

    def forward(
        self, token_ids: Tensor, positions: Tensor, slots: Tensor, meta: AttentionMeta, kv: Tensor,
        stored: Callable[[int], None] | None = None, every: int = 1, sampled: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As ``Decoder.forward``, but for the last norm, which is left to ``logits``."""
        if sampled is not None:
            token_ids = resolve(token_ids, sampled, self.config.vocab_size)
        if self._embed is None:
            hidden = self._head.rows(token_ids)
        else:
            hidden = self._embed.index_select(0, token_ids)
        step = native.Step(meta, self._turns, positions, slots, kv[0])
        count = self.config.layers
        each = count if stored is None else every
        for first in range(0, count, each):
            layers = range(count)[first : first + each]
            native.run_layers(self.threads, self._shape, self._layers, layers, step, hidden, kv)
            if stored is not None:
                stored(layers.stop)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """``hidden`` [R, H] as ``forward`` gives it here -> float32 [R, vocab_size]."""
        return native.linear(self.threads, hidden, self._head, self._norm, self.config.rms_norm_eps)

    def _vector(self, name: str, *shape: int) -> Tensor:
        self._named[name] = place = self._take(name, shape, torch.float32)
        return place

    def _linear(
        self, names: str, *rows: int, k: int = 0, bits: Mapping[str, int], bias: bool = False
    ) -> native.Packed:
        """A weight whose rows are those of ``names``, one after another; ``k`` 0: the hidden size."""
        parts = names.split()
        four = all(bits.get(f"{name}.weight") == 4 for name in parts)
        columns = k or self.config.hidden_size
        row_bits = self._row_bits if four else 16
        packed = native.Packed(
            sum(rows),
            columns,
            4 if four else 8,
            row_bits,
            bias=bias,
            take=lambda array, shape, dtype: self._take(f"{parts[0]}.{array}", shape, dtype),
        )
        first = 0
        for name, count in zip(parts, rows, strict=True):
            self._named[f"{name}.weight"] = PackedRows(packed, first, count)
            if packed.bias is not None:
                self._named[f"{name}.bias"] = packed.bias[first : first + count]
            first += count
        return packed

    def _layer(self, index: int, bits: Mapping[str, int]) -> native.PackedLayer:
        c, at = self.config, f"model.layers.{index}"
        attention, mlp = f"{at}.self_attn", f"{at}.mlp"
        queries, keys, inner = c.heads * c.head_dim, c.kv_heads * c.head_dim, c.intermediate_size
        qkv = " ".join(f"{attention}.{x}_proj" for x in "qkv")
        gate_up = f"{mlp}.gate_proj {mlp}.up_proj"
        return native.PackedLayer(
            self._vector(f"{at}.input_layernorm.weight", c.hidden_size),
            self._vector(f"{at}.post_attention_layernorm.weight", c.hidden_size),
            self._vector(f"{attention}.q_norm.weight", c.head_dim) if c.qk_norm else None,
            self._vector(f"{attention}.k_norm.weight", c.head_dim) if c.qk_norm else None,
            self._linear(qkv, queries, keys, keys, bits=bits, bias=c.qkv_bias),
            self._linear(f"{attention}.o_proj", c.hidden_size, k=queries, bits=bits, bias=c.o_bias),
            self._linear(gate_up, inner, inner, bits=bits, bias=c.mlp_bias),
            self._linear(f"{mlp}.down_proj", c.hidden_size, k=inner, bits=bits, bias=c.mlp_bias),
            c.window(index),
        )


AnyDecoder = Decoder | PackedDecoder
