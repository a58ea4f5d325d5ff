"""The shape of a decoder model: every number that the engine needs, and nothing of how a family is called.

Knows config.json (the spellings of transformers 4 and 5) and, through ``gguf_config``, GGUF metadata;
refuses by name what pagewire does not run. Knows no tensor and loads no torch, so the router and the
planner may read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pagewire import gguf_config
from pagewire.errors import ModelError, UnsupportedModel
from pagewire.hub import ModelSource
from pagewire.layout import KVLayout
from pagewire.rope_config import RopeScaling, parse_rope
from pagewire.weights_digest import weights_digest

# What config.json means where it is silent: the defaults of each class in transformers.
_COMMON: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 28,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"max_position_embeddings": 2048},
    "MistralForCausalLM": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "Qwen2ForCausalLM": {"max_position_embeddings": 32768, "sliding_window": 4096},
    "Qwen3ForCausalLM": {"max_position_embeddings": 32768, "sliding_window": 4096, "head_dim": 128},
}
SUPPORTED_ARCHITECTURES = tuple(_DEFAULTS)
_NOT_IN_KV = ("max_position_embeddings", "eos_token_ids", "bos_token_id", "dtype")
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One dense decoder. Names follow config.json where they say the same."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope: RopeScaling = field(default_factory=RopeScaling)
    tie_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    windowed_layers: frozenset[int] = frozenset()
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    dtype: str = "float32"  # of the weights on disk

    def window(self, layer: int) -> int | None:
        """Tokens that a query of ``layer`` sees, itself included; None: all before it."""
        return self.sliding_window if layer in self.windowed_layers else None

    @property
    def context_length(self) -> int:
        """Positions that the model is meant for. YaRN configs may state only the unscaled length."""
        if self.rope.kind != "yarn":
            return self.max_position_embeddings
        scaled = int(self.rope.factor * self.rope.original_max_position_embeddings)
        return max(self.max_position_embeddings, scaled)


def load_config(source: ModelSource) -> ModelConfig:
    """Read the config of a model on disk. Raises ModelError, and UnsupportedModel for what is refused by
    name.
    """
    if source.is_gguf:
        return parse_config(gguf_config.config_json(source.path))
    config = _read_json(source.path / "config.json")
    generation = source.path / "generation_config.json"
    extra_eos = _ids(_read_json(generation).get("eos_token_id")) if generation.is_file() else ()
    return parse_config(config | {"eos_token_id": [*_ids(config.get("eos_token_id")), *extra_eos]})


def fingerprint(source: ModelSource, load_format: str = "auto", precision: str = "none") -> str:
    """Name the content of a model in 32 hex digits: equal ones write interchangeable KV.

    ``precision`` says how it is computed. Covers every entry of the config that shapes the KV, and
    ``weights_digest``. Dummy weights follow from the config alone, so no weights file is read for them.
    """
    config = load_config(source)
    shape = {key: value for key, value in asdict(config).items() if key not in _NOT_IN_KV}
    shape["windowed_layers"] = sorted(config.windowed_layers)
    facts = json.dumps([load_format, precision, shape], sort_keys=True)
    digest = blake2b(facts.encode(), digest_size=16)
    if load_format != "dummy":
        digest.update(weights_digest(source))
    return digest.hexdigest()


def kv_layout(config: ModelConfig, dtype: str, model: str) -> KVLayout:
    """What this model's nodes must agree on; ``model`` is its ``fingerprint``."""
    return KVLayout(config.layers, config.kv_heads, config.head_dim, dtype, model)


def parse_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Build the config from the entries of a config.json."""
    architecture = _architecture(raw)
    config = _COMMON | _DEFAULTS[architecture] | dict(raw)
    heads, hidden, layers = (
        _size(config, k) for k in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    head_dim = _size(config, "head_dim", hidden // heads)
    kv_heads = _size(config, "num_key_value_heads", heads)
    _refuse_unsupported(config, head_dim)
    if heads % kv_heads or head_dim % 2:
        raise ModelError(f"{heads} heads cannot share {kv_heads} KV heads of {head_dim} values")
    max_positions = _size(config, "max_position_embeddings")
    windowed = _windowed_layers(config, architecture, layers)
    theta, rope = parse_rope(config, max_positions)
    return ModelConfig(
        architecture=architecture,
        vocab_size=_size(config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_size(config, "intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        rms_norm_eps=float(config["rms_norm_eps"]),
        rope_theta=theta,
        rope=rope,
        tie_embeddings=bool(config["tie_word_embeddings"]),
        qkv_bias=architecture == "Qwen2ForCausalLM" or _biased(config, architecture),
        o_bias=_biased(config, architecture),
        mlp_bias=architecture == "LlamaForCausalLM" and bool(config["mlp_bias"]),
        qk_norm=architecture == "Qwen3ForCausalLM",
        sliding_window=config["sliding_window"] if windowed else None,
        windowed_layers=windowed,
        eos_token_ids=tuple(dict.fromkeys(_ids(config.get("eos_token_id")))),
        bos_token_id=config.get("bos_token_id"),
        dtype=_dtype(config),
    )


def _architecture(raw: Mapping[str, Any]) -> str:
    names = raw.get("architectures") or [raw.get("model_type", "unknown")]
    if names[0] not in SUPPORTED_ARCHITECTURES:
        supported = ", ".join(SUPPORTED_ARCHITECTURES)
        raise UnsupportedModel(f"{names[0]} is not supported; pagewire runs {supported}")
    return str(names[0])


def _refuse_unsupported(config: Mapping[str, Any], head_dim: int) -> None:
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "of an unknown kind")
        raise UnsupportedModel(
            f"quantised weights ({method}) are not supported; use GGUF or unquantised ones"
        )
    if config["hidden_act"] not in ("silu", "swish"):
        raise UnsupportedModel(f"the activation {config['hidden_act']} is not supported, only silu")
    if config.get("rotary_dim") not in (None, head_dim) or config.get("partial_rotary_factor") not in (
        None,
        1,
    ):
        raise UnsupportedModel("rotary embeddings over a part of each head are not supported")


def _biased(config: Mapping[str, Any], architecture: str) -> bool:
    """``attention_bias`` puts a bias on q, k, v and o; the classes of Mistral and Qwen2 do not read it."""
    return architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM") and bool(config["attention_bias"])


def _windowed_layers(config: Mapping[str, Any], architecture: str, layers: int) -> frozenset[int]:
    if architecture == "LlamaForCausalLM" or config["sliding_window"] is None:
        return frozenset()
    if architecture == "MistralForCausalLM":
        return frozenset(range(layers))
    if not config["use_sliding_window"]:
        return frozenset()
    kinds = config.get("layer_types")
    if kinds is None:
        return frozenset(range(config["max_window_layers"], layers))
    if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise UnsupportedModel(f"the layer types {sorted(set(kinds))} are not supported for {layers} layers")
    return frozenset(i for i in range(layers) if kinds[i] == "sliding_attention")


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int) or value <= 0:
        raise ModelError(f"the model's config gives {value!r} for {key}, which has to be a positive integer")
    return value


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _dtype(config: Mapping[str, Any]) -> str:
    name = config.get("dtype") or config.get("torch_dtype")
    return name if name in _DTYPES else "float32"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} is not a JSON object")
    return value
