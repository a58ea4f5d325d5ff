"""One dense decoder for every supported family: what differs between them is in ``ModelConfig``.

Knows weights, the order of operations and the layers of a paged KV tensor; knows no sequence, no file and
no sampling. A row's result depends on that row and on the KV of its own sequence alone, whatever else is in
the step: all that happens here is ``kernels`` calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.activation import silu_mul
from kernels.attention import AttentionMeta, paged_attention
from kernels.embedding import embed
from kernels.linear import linear, pack
from kernels.norm import add_rms_norm, rms_norm
from kernels.rope_store import rope_store
from pagewire.engine.rope_scaling import rope_table
from pagewire.model_config import ModelConfig


@dataclass(slots=True, eq=False)
class Layer:
    """Weights of one layer. H hidden, D head_dim, I intermediate; q, k, v and gate, up are fused by rows."""

    attn_norm: Tensor  # [H]
    qkv: Tensor  # [(heads + 2 kv_heads) D, H]
    qkv_bias: Tensor | None
    q_norm: Tensor | None  # [D]
    k_norm: Tensor | None  # [D]
    out: Tensor  # [H, heads D]
    out_bias: Tensor | None
    mlp_norm: Tensor  # [H]
    gate_up: Tensor  # [2 I, H]
    gate_up_bias: Tensor | None
    down: Tensor  # [H, I]
    down_bias: Tensor | None
    window: int | None


class Decoder:
    """Weights and the forward pass: made empty, filled through ``named_weights``, then packed."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, positions: int | None = None,
        *, deterministic: bool = False,
    ) -> None:  # fmt: skip
        """Allocate without filling. ``positions``: rows of the rotary table, by default the whole context.
        ``deterministic``: on a GPU too, a row's bits must not depend on the other rows.
        """
        self.config, self.dtype, self.device = config, dtype, device
        self.deterministic = deterministic
        self.logits_dtype = torch.float32 if device.type == "cpu" else dtype
        self._linear = partial(linear, invariant=deterministic)
        self.embed = self._empty(config.vocab_size, config.hidden_size)
        self.layers = [self._layer(i) for i in range(config.layers)]
        self.norm = self._empty(config.hidden_size)
        self.lm_head = self.embed if config.tie_embeddings else torch.empty_like(self.embed)
        table = rope_table(config, positions or config.context_length)
        self.cos, self.sin = (torch.from_numpy(t).to(device) for t in table)  # float32 [positions, D / 2]

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _layer(self, index: int) -> Layer:
        c = self.config
        hidden, inner, queries = c.hidden_size, c.intermediate_size, c.heads * c.head_dim
        rows = queries + 2 * c.kv_heads * c.head_dim
        return Layer(
            attn_norm=self._empty(hidden),
            qkv=self._empty(rows, hidden),
            qkv_bias=self._empty(rows) if c.qkv_bias else None,
            q_norm=self._empty(c.head_dim) if c.qk_norm else None,
            k_norm=self._empty(c.head_dim) if c.qk_norm else None,
            out=self._empty(hidden, queries),
            out_bias=self._empty(hidden) if c.o_bias else None,
            mlp_norm=self._empty(hidden),
            gate_up=self._empty(2 * inner, hidden),
            gate_up_bias=self._empty(2 * inner) if c.mlp_bias else None,
            down=self._empty(hidden, inner),
            down_bias=self._empty(hidden) if c.mlp_bias else None,
            window=c.window(index),
        )

    def named_weights(self) -> dict[str, Tensor]:
        """Where each tensor of a HuggingFace checkpoint belongs: name -> view of the (often fused) weight."""
        named = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.norm}
        if not self.config.tie_embeddings:
            named["lm_head.weight"] = self.lm_head
        for index, layer in enumerate(self.layers):
            for name, view in self._layer_views(layer).items():
                if view is not None:
                    named[f"model.layers.{index}.{name}"] = view
        return named

    def _layer_views(self, layer: Layer) -> dict[str, Tensor | None]:
        c = self.config
        views: dict[str, Tensor | None] = {
            "input_layernorm.weight": layer.attn_norm,
            "self_attn.q_norm.weight": layer.q_norm,
            "self_attn.k_norm.weight": layer.k_norm,
            "self_attn.o_proj.weight": layer.out,
            "self_attn.o_proj.bias": layer.out_bias,
            "post_attention_layernorm.weight": layer.mlp_norm,
            "mlp.down_proj.weight": layer.down,
            "mlp.down_proj.bias": layer.down_bias,
        }
        heads = [c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim]
        qkv = [f"self_attn.{x}_proj" for x in "qkv"]
        gate_up = ["mlp.gate_proj", "mlp.up_proj"]
        for names, sizes, weight, bias in (
            (qkv, heads, layer.qkv, layer.qkv_bias),
            (gate_up, [c.intermediate_size] * 2, layer.gate_up, layer.gate_up_bias),
        ):
            views |= zip((f"{n}.weight" for n in names), torch.split(weight, sizes), strict=True)
            if bias is not None:
                views |= zip((f"{n}.bias" for n in names), torch.split(bias, sizes), strict=True)
        return views

    def pack(self) -> None:
        """Reorder each matrix as ``linear`` reads it fastest; nobody else can read them then.

        The embedding stays plain, so where the head is tied to it, the packed head is a copy.
        """
        for layer in self.layers:
            layer.qkv, layer.out = pack(layer.qkv), pack(layer.out)
            layer.gate_up, layer.down = pack(layer.gate_up), pack(layer.down)
        self.lm_head = pack(self.lm_head)

    @torch.inference_mode()
    def forward(
        self, token_ids: Tensor, positions: Tensor, slots: Tensor, meta: AttentionMeta, kv: Tensor,
        stored: Callable[[int], None] | None = None, every: int = 1, sampled: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden states [T, H] of T tokens; stores their K and V in ``kv`` [L, 2, pages, page_size, Hkv, D].

        token_ids, positions, slots: int64 [T]; a negative id -1 - r is ``sampled[r]``, a slot of -1 stores
        nothing. ``meta`` says which rows are one sequence and where its pages are. ``stored`` is told, after
        ``every`` layers and the last, of how many they are in ``kv``.
        """
        hidden, normed = self.enter(token_ids, sampled)
        count = len(self.layers)
        each = count if stored is None else every
        for first in range(0, count, each):
            layers = range(count)[first : first + each]
            hidden, normed = self.through(layers, hidden, normed, positions, slots, meta, kv)
            if stored is not None:
                stored(layers.stop)
        return normed

    @torch.inference_mode()
    def enter(self, token_ids: Tensor, sampled: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the first layer is given: the hidden states [T, H], and the same normed."""
        hidden = embed(self.embed, token_ids, sampled)
        return hidden, rms_norm(hidden, self.layers[0].attn_norm, self.config.rms_norm_eps)

    @torch.inference_mode()
    def through(
        self, layers: range, hidden: Tensor, normed: Tensor, positions: Tensor, slots: Tensor,
        meta: AttentionMeta, kv: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What comes out of ``layers``: hidden states, and the same normed for whoever is next."""
        eps = self.config.rms_norm_eps
        for number in layers:
            layer, last = self.layers[number], number + 1 == len(self.layers)
            norm = self.norm if last else self.layers[number + 1].attn_norm
            mixed = self._attention(layer, normed, positions, slots, meta, kv[number])
            normed, hidden = add_rms_norm(mixed, hidden, layer.mlp_norm, eps)
            normed, hidden = add_rms_norm(self._mlp(layer, normed), hidden, norm, eps)
        return hidden, normed

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [R, H] -> [R, vocab_size] in ``logits_dtype``: float32 on a CPU, else as computed."""
        return self._linear(hidden, self.lm_head, None).to(self.logits_dtype)

    def _attention(
        self, layer: Layer, normed: Tensor, positions: Tensor, slots: Tensor, meta: AttentionMeta,
        kv_layer: Tensor,
    ) -> Tensor:  # fmt: skip
        c = self.config
        q = rope_store(
            self._linear(normed, layer.qkv, layer.qkv_bias), (c.heads, c.kv_heads),
            layer.q_norm, layer.k_norm, c.rms_norm_eps, self.cos, self.sin, positions, kv_layer, slots,
        )  # fmt: skip
        mixed = paged_attention(q, kv_layer, meta, c.head_dim**-0.5, layer.window)
        return self._linear(mixed.flatten(1), layer.out, layer.out_bias)

    def _mlp(self, layer: Layer, normed: Tensor) -> Tensor:
        inner = silu_mul(self._linear(normed, layer.gate_up, layer.gate_up_bias))
        return self._linear(inner, layer.down, layer.down_bias)
