"""What two nodes must agree on before KV bytes may pass between them.

Knows shapes and sizes; knows no tensor, no device and no page. The canonical wire slab for a token range is
``[layers, 2 (K, V), tokens, kv_heads, head_dim]``, C-contiguous, in ``dtype``. Page size is a node's own
affair and is not part of the agreement.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from pagewire.errors import ConfigError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Shape and meaning of one token's KV.

    ``model`` is a fingerprint of the weights and of the config that shapes the KV (rope, norms): two nodes
    with equal layouts write interchangeable bytes for the same token ids. Raises ConfigError on a shape
    without bytes or an unknown dtype, since a layout may come from a peer.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    model: str

    def __post_init__(self) -> None:
        if min(self.layers, self.kv_heads, self.head_dim) < 1:
            raise ConfigError("a KV layout has at least one layer, one head and one dimension")
        if self.dtype not in DTYPE_BYTES:
            raise ConfigError(f"KV of dtype {self.dtype[:20]} is not supported: use {', '.join(DTYPE_BYTES)}")

    @property
    def token_bytes(self) -> int:
        """Bytes of K and V of one token over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * DTYPE_BYTES[self.dtype]

    def slab_shape(self, tokens: int) -> tuple[int, int, int, int, int]:
        return (self.layers, 2, tokens, self.kv_heads, self.head_dim)

    def mismatch(self, other: KVLayout) -> str | None:
        """Name the fields in which the two differ, or None if KV may pass between them."""
        wrong = [
            f"{f.name} {getattr(self, f.name)} != {getattr(other, f.name)}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]
        return ", ".join(wrong) or None
