"""The flags of everything that starts: what is served under which name, and how it logs.

Knows flags; knows no command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NameFlags:
    """For every command that starts something."""

    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What clients call the model; may be repeated. Default: the model's own name.",
        ),
    ] = None
    max_model_len: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Longest prompt plus answer, in tokens. Default: as far as the model and the KV cache go.",
        ),
    ] = None
    log_level: Annotated[LogLevel, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = (
        "info"
    )
    log_format: Annotated[
        LogFormat, typer.Option(metavar="FORMAT", help="text, or json: an object a line.")
    ] = "text"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.served_model_name or ())
