"""pagewire: serve large language models with prefill and decode on separate workers.

The names below load on first use, so that ``import pagewire`` stays free of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pagewire.versions import __version__

__all__ = ["LLM", "SamplingParams", "__version__"]

if TYPE_CHECKING:
    from pagewire.llm import LLM
    from pagewire.sampling import SamplingParams


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from pagewire.llm import LLM

        return LLM
    if name == "SamplingParams":
        from pagewire.sampling import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'pagewire' has no attribute {name!r}")
