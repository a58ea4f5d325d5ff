"""The flags of a router, in groups: its door, load, nodes, the model's way of writing, and who watches.

Knows flags and router options; knows no command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from pagewire.cli.door_flags import DoorFlags
from pagewire.cli.name_flags import NameFlags
from pagewire.errors import ConfigError
from router.keys import ring_of
from router.options import Disaggregation, Placement, RouterOptions
from router.tls import context_of

ToolCallParser = Literal["auto", "hermes", "llama3_json", "none"]
ReasoningParser = Literal["auto", "deepseek_r1", "qwen3", "none"]


@dataclass(frozen=True, kw_only=True)
class LoadFlags:
    """How much at once, and for how long."""

    request_timeout: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.001,
            help="Seconds that a request may take in all; clients may ask for less.",
            rich_help_panel="Load",
        ),
    ] = 600.0
    max_inflight: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Requests (prompts) in hand at once; those beyond get 429.",
            rich_help_panel="Load",
        ),
    ] = 256
    max_inflight_per_key: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Of those, with one API key.", rich_help_panel="Load"),
    ] = 64
    max_queued: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Of those in hand, waiting for their turn.",
            rich_help_panel="Load",
        ),
    ] = 192
    ttft_target: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.001,
            help="Seconds to a first token: a request that would wait longer for those before it gets 429.",
            rich_help_panel="Load",
        ),
    ] = 60.0


@dataclass(frozen=True, kw_only=True)
class PlacementFlags:
    """Which nodes do what, and what if they are lost."""

    placement: Annotated[
        Placement,
        typer.Option(
            metavar="KIND",
            help="How nodes are chosen: prefix (lowest predicted cost, with what their prefix caches hold), "
            "load, or round-robin.",
            rich_help_panel="Nodes",
        ),
    ] = "prefix"
    disaggregate: Annotated[
        Disaggregation,
        typer.Option(
            metavar="WHEN",
            help="Whether prompts go through prefill nodes: always, never, or auto: unless that is predicted "
            "to cost more than it saves.",
            rich_help_panel="Nodes",
        ),
    ] = "auto"
    recovery_timeout: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.0,
            help="Seconds that a request whose node was lost waits for another.",
            rich_help_panel="Nodes",
        ),
    ] = 8.0
    canary_interval: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.0,
            help="Seconds without a handoff after which the router tries one itself, to know that it is "
            "ready. 0: never.",
            rich_help_panel="Nodes",
        ),
    ] = 20.0


@dataclass(frozen=True, kw_only=True)
class RoleFlags:
    """What nodes that can do both are to do."""

    autorole: Annotated[
        bool,
        typer.Option(
            "--autorole",
            help="Have nodes that can do both change between prefill and decode, so that more requests meet "
            "--slo. Of several routers, give it to one.",
            rich_help_panel="Nodes",
        ),
    ] = False
    slo: Annotated[
        str,
        typer.Option(
            metavar="ttft:MS,itl:MS",
            help="For --autorole: milliseconds to a first token, and between two tokens.",
            rich_help_panel="Nodes",
        ),
    ] = "ttft:2000,itl:100"

    def targets(self) -> tuple[float, float]:
        """Milliseconds to a first token and between two. Raises ConfigError."""
        found = {"ttft": 0.0, "itl": 0.0}
        for part in self.slo.split(","):
            name, _, value = part.strip().partition(":")
            if name not in found or not re.fullmatch(r"\d+(\.\d+)?", value) or not float(value):
                raise ConfigError(
                    f"--slo {self.slo}: write it as ttft:MS,itl:MS, for example ttft:500,itl:50"
                )
            found[name] = float(value)
        if not all(found.values()):
            raise ConfigError(f"--slo {self.slo}: both are needed, ttft and itl")
        return found["ttft"], found["itl"]


@dataclass(frozen=True, kw_only=True)
class TextFlags:
    """How the model writes what is more than text."""

    tool_call_parser: Annotated[
        ToolCallParser,
        typer.Option(
            metavar="NAME",
            help="How the model writes calls of tools: hermes (Qwen too), llama3_json, none, or auto: as its "
            "chat template shows.",
            rich_help_panel="Model",
        ),
    ] = "auto"
    reasoning_parser: Annotated[
        ReasoningParser,
        typer.Option(
            metavar="NAME",
            help="How the model marks what it thinks: qwen3, deepseek_r1 (thinks without an opening mark), "
            "none, or auto: qwen3 if it knows <think>.",
            rich_help_panel="Model",
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class SeenFlags:
    """What is shown of all this."""

    dashboard: Annotated[
        bool,
        typer.Option(
            "--dashboard/--no-dashboard",
            help="Serve the page /dashboard. What it shows needs a key where there are any.",
            rich_help_panel="Watching",
        ),
    ] = True
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An OpenTelemetry collector for spans of each request, such as http://localhost:4318. Needs "
            "pagewire[otel].",
            rich_help_panel="Watching",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class HttpFlags(SeenFlags, RoleFlags, PlacementFlags, TextFlags, LoadFlags, DoorFlags):
    """For those that start a router."""

    def options(self, model: str, names: NameFlags) -> RouterOptions:
        """A router but for its address in the cluster. Raises ConfigError."""
        ttft_ms, itl_ms = self.targets()
        made = RouterOptions(
            model=model,
            mailbox="",
            served_model_names=names.names,
            host=self.host,
            port=self.port,
            api_keys=self.keys(),
            api_key_file=_path(self.api_key_file),
            insecure=self.insecure,
            allowed_origins=self.origins(),
            ssl_certfile=_path(self.ssl_certfile),
            ssl_keyfile=_path(self.ssl_keyfile),
            ssl_keyfile_password=self.ssl_keyfile_password,
            ssl_ca_certs=_path(self.ssl_ca_certs),
            max_model_len=names.max_model_len,
            recovery_s=self.recovery_timeout,
            tool_call_parser=self.tool_call_parser,
            reasoning_parser=self.reasoning_parser,
            request_timeout_s=self.request_timeout,
            max_inflight=self.max_inflight,
            max_inflight_per_key=self.max_inflight_per_key,
            max_queued=self.max_queued,
            ttft_target_s=self.ttft_target,
            placement=self.placement,
            disaggregate=self.disaggregate,
            canary_s=self.canary_interval,
            autorole=self.autorole,
            slo_ttft_ms=ttft_ms,
            slo_itl_ms=itl_ms,
            dashboard=self.dashboard,
            otlp_endpoint=self.otlp_endpoint,
            log_level=names.log_level,
            log_format=names.log_format,
        )
        ring_of(made), context_of(made)  # here, before anything is downloaded or started
        return made


def _path(given: str | None) -> str | None:
    return None if given is None else str(Path(given).absolute())
