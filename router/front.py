"""What every route needs: the service, the text of the model, and the names it answers to.

Knows no body and no reply.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Protocol

from pagewire import __version__
from pagewire.errors import Unavailable, UnknownModel
from pagewire.sampling import Grammar
from pagewire.text.output.dialect import Dialect
from pagewire.text.tokenizer import Tokenizer
from router.service import Service

LONG_TEXT = 16 << 10  # characters from which on tokenising leaves the event loop


class ChecksGrammars(Protocol):
    async def check(self, grammar: Grammar, param: str) -> None:
        """Raises RequestError about ``param`` unless the grammar can be held to."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Front:
    """``names`` are what clients may call the model; the first is its own."""

    service: Service
    tokenizer: Tokenizer
    names: tuple[str, ...]
    started: int  # Unix time
    dialect: Dialect
    grammars: ChecksGrammars

    def model(self, asked: str | None) -> str:
        """The name to answer with. Raises UnknownModel."""
        if asked is None or asked in self.names:
            return asked or self.names[0]
        raise UnknownModel(f"the model {asked[:128]!r} is not served here", param="model")

    def limit(self) -> int:
        """Tokens of prompt and answer together. Raises Unavailable while no node has said."""
        limit = self.service.max_model_len
        if limit is None:
            raise Unavailable("no prefill and decode node are ready", retry_after=2.0)
        return limit

    def fingerprint(self) -> str | None:
        """Changes with this program and with the weights; None while no node has said which it has."""
        layouts = {node.hello.layout.model for node in self.service.fleet.nodes.values()}
        if not layouts:
            return None
        return "fp_" + hashlib.sha256("\n".join([__version__, *sorted(layouts)]).encode()).hexdigest()[:12]

    async def encode(self, text: str, *, special: bool) -> list[int]:
        if len(text) < LONG_TEXT:
            return self.tokenizer.encode(text, add_special_tokens=special)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens=special)
