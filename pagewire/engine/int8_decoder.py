"""The decoder on a CPU with int8 weights: the same face, computed a layer at a time by the native kernels.

Knows the weights of ``Decoder`` and the library's forms of them; knows no step and no sequence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels import native_library as native
from kernels.attention import AttentionMeta
from pagewire.engine.model import Decoder, Layer
from pagewire.errors import ConfigError
from pagewire.model_config import ModelConfig


class Int8Decoder(Decoder):
    """Filled like a float32 decoder; ``pack`` makes the weights int8 and lets go of the wide ones.

    The embedding stays float32; where the head is tied to it, the head is a copy in int8. Raises ConfigError
    where the native kernels cannot compute the model.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, positions: int | None = None
    ) -> None:
        if not native.available():
            raise ConfigError(
                "int8 needs the CPU kernels: install a C++ compiler, then install pagewire again"
            )
        if device.type != "cpu" or dtype != torch.float32:
            raise ConfigError("int8 is computed on a CPU, with --dtype float32")
        if config.head_dim % native.LANES:
            raise ConfigError(
                f"int8 needs a head_dim that is a multiple of {native.LANES}, not {config.head_dim}"
            )
        super().__init__(config, dtype, device, positions)

    def pack(self) -> None:
        self._threads = native.Threads(torch.get_num_threads())
        c = self.config
        self._shape = native.Shape(
            c.hidden_size, c.heads, c.kv_heads, c.head_dim, 2 * self.cos.shape[1], c.intermediate_size,
            c.rms_norm_eps, c.head_dim**-0.5,
        )  # fmt: skip
        self._packed_head = native.Packed(self.lm_head)
        self._packed = [_packed(self.layers.pop(0)) for _ in range(c.layers)]
        del self.lm_head

    @torch.inference_mode()
    def forward(
        self, token_ids: Tensor, positions: Tensor, slots: Tensor, meta: AttentionMeta, kv: Tensor,
        after_layer: Callable[[int], None] | None = None,
    ) -> Tensor:  # fmt: skip
        hidden = self.embed.index_select(0, token_ids)
        cos, sin = self.cos.index_select(0, positions), self.sin.index_select(0, positions)
        step = native.Step(meta, cos, sin, slots, kv.shape[2])
        for number, (layer, kv_layer) in enumerate(zip(self._packed, kv, strict=True), start=1):
            native.run_layer(self._threads, self._shape, layer, step, hidden, kv_layer)
            if after_layer is not None:
                after_layer(number)
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """``hidden`` [R, H] as ``forward`` gives it here, before the last norm."""
        return native.linear_int8(
            self._threads, hidden, self._packed_head, self.norm, self.config.rms_norm_eps
        )


def _packed(layer: Layer) -> native.PackedLayer:
    return native.PackedLayer(
        layer.attn_norm,
        layer.mlp_norm,
        layer.q_norm,
        layer.k_norm,
        native.Packed(layer.qkv, layer.qkv_bias),
        native.Packed(layer.out, layer.out_bias),
        native.Packed(layer.gate_up, layer.gate_up_bias),
        native.Packed(layer.down, layer.down_bias),
        layer.window,
    )
