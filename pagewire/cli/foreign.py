"""Flags that users of vLLM know: given our name, dropped if they change nothing, or refused with a reason.

Knows spellings only. What both have under the same name is an ordinary option of ``pagewire serve``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pagewire.errors import ConfigError


class _Flag(NamedTuple):
    harmless: tuple[str, ...]  # values that ask for what pagewire does anyway
    why: str
    takes_value: bool = True


_NODES = "scale with more nodes, --prefill and --decode, instead"
_TP = _Flag(("1",), f"a node computes on one device so far; {_NODES}")
_PP = _Flag(("1",), f"a node holds all layers of the model so far; {_NODES}")
_DP = _Flag(("1",), "say how many nodes of each kind to run with --prefill and --decode")
_UTILIZATION = _Flag((), "say how much memory the KV cache may take with --kv-cache-memory, 4GiB say")
_FLAGS = {
    "--tensor-parallel-size": _TP,
    "-tp": _TP,
    "--pipeline-parallel-size": _PP,
    "-pp": _PP,
    "--data-parallel-size": _DP,
    "-dp": _DP,
    "--gpu-memory-utilization": _UTILIZATION,
    "--kv-cache-dtype": _Flag(("auto",), "the KV cache is kept in the dtype of --dtype"),
    "--kv-transfer-config": _Flag((), "the handoff is built in; see --prefill, --decode and --transport"),
    "--speculative-config": _Flag((), "speculative decoding is not there"),
    "--cpu-offload-gb": _Flag(("0",), "weights are not offloaded"),
    "--swap-space": _Flag(("0",), "pages are not swapped; a preempted sequence is computed again"),
    "--enable-lora": _Flag((), "LoRA adapters are not there", takes_value=False),
    "--trust-remote-code": _Flag((), "pagewire never runs code that comes with a model", takes_value=False),
    "--no-enable-chunked-prefill": _Flag((), "prompts are always computed in chunks", takes_value=False),
    "--enable-chunked-prefill": _Flag(("",), "", takes_value=False),
    "--enable-prefix-caching": _Flag(("",), "", takes_value=False),
    "--enforce-eager": _Flag(("",), "", takes_value=False),
}
_SYNONYMS = {
    "--block-size": "--page-size",
    "-q": "--quantization",
    "--kv-cache-memory-bytes": "--kv-cache-memory",
    "--no-enable-prefix-caching": "--no-prefix-caching",
}


def in_our_words(argv: Sequence[str]) -> list[str]:
    """``argv`` in our own flags, which are spelled with dashes. Raises ConfigError on what cannot be had."""
    kept: list[str] = []
    rest = iter(argv)
    for word in rest:
        name, given, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        flag = _FLAGS.get(name)
        if flag is None:
            kept.append(
                _SYNONYMS.get(name, name) + given + value
                if name in _SYNONYMS or name.startswith("--")
                else word
            )
            continue
        if flag.takes_value and not given:
            value = next(rest, "")
        if value not in flag.harmless:
            raise ConfigError(f"{f'{name} {value}'.strip()} cannot be had: {flag.why}")
    return kept
