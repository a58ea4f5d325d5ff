"""The flags that several commands share, in groups: one spelling, one help text, one default for each.

Where vLLM has a flag of the same meaning, its spelling is accepted too. Knows flags; knows no command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from pagewire.cli import machine, sizes
from pagewire.errors import ConfigError
from pagewire.hub import DEMO
from pagewire.node_options import NodeOptions
from router.keys import is_key, ring_of
from router.options import Disaggregation, Placement, RouterOptions
from router.tls import context_of

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LoadFormat = Literal["auto", "dummy"]
KVDtype = Literal["auto", "float32", "bfloat16"]
Quantization = Literal["auto", "none", "int8", "gguf"]
ActivationBits = Literal["auto", "8", "16"]
ToolCallParser = Literal["auto", "hermes", "llama3_json", "none"]
ReasoningParser = Literal["auto", "deepseek_r1", "qwen3", "none"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help='A hub id such as Qwen/Qwen3-0.6B, a folder, a .gguf file, or "demo" (SmolLM2-135M-Instruct).',
    ),
]
DEFAULT_MODEL = DEMO


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFlags:
    """For those that start a router."""

    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="Where to listen for clients.", rich_help_panel="HTTP"),
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.", rich_help_panel="HTTP")
    ] = 8000
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PAGEWIRE_API_KEY",
            metavar="KEY",
            help="A key that clients must send (Authorization: Bearer KEY); may be repeated. Command lines "
            "can be read by everybody on this machine: better use a file.",
            rich_help_panel="HTTP",
        ),
    ] = None
    api_key_file: Annotated[
        str | None,
        typer.Option(
            envvar="PAGEWIRE_API_KEY_FILE",
            metavar="FILE",
            help="Keys that clients may send, one a line, or NAME: KEY. Only you may be able to read it; "
            "changes count within a second.",
            rich_help_panel="HTTP",
        ),
    ] = None
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Let other hosts in without a key.",
            rich_help_panel="HTTP",
        ),
    ] = False
    ssl_certfile: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Serve HTTPS with this certificate.", rich_help_panel="HTTP"),
    ] = None
    ssl_keyfile: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Its private key, if that is not in the same file.",
            rich_help_panel="HTTP",
        ),
    ] = None
    ssl_keyfile_password: Annotated[
        str | None,
        typer.Option(
            envvar="PAGEWIRE_SSL_KEYFILE_PASSWORD",
            metavar="WORD",
            help="What the key is encrypted with; better use the environment.",
            rich_help_panel="HTTP",
        ),
    ] = None
    ssl_ca_certs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Let in only clients with a certificate that one of these vouches for.",
            rich_help_panel="HTTP",
        ),
    ] = None
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help='Whose pages may ask from a browser, such as https://chat.example.org, or "*"; may be '
            "repeated. Default: none.",
            rich_help_panel="HTTP",
        ),
    ] = None
    dashboard: Annotated[
        bool,
        typer.Option(
            "--dashboard/--no-dashboard",
            help="Serve the page /dashboard. What it shows needs a key where there are any.",
            rich_help_panel="HTTP",
        ),
    ] = True
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An OpenTelemetry collector for spans of each request, such as http://localhost:4318. Needs "
            "pagewire[otel].",
            rich_help_panel="HTTP",
        ),
    ] = None
    recovery_timeout: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.0,
            help="Seconds that a request whose node was lost waits for another.",
            rich_help_panel="HTTP",
        ),
    ] = 8.0
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

    tool_call_parser: Annotated[
        ToolCallParser,
        typer.Option(
            metavar="NAME",
            help="How the model writes calls of tools: hermes (Qwen too), llama3_json, none, or auto: as its "
            "chat template shows.",
            rich_help_panel="HTTP",
        ),
    ] = "auto"
    reasoning_parser: Annotated[
        ReasoningParser,
        typer.Option(
            metavar="NAME",
            help="How the model marks what it thinks: qwen3, deepseek_r1 (thinks without an opening mark), "
            "none, or auto: qwen3 if it knows <think>.",
            rich_help_panel="HTTP",
        ),
    ] = "auto"
    placement: Annotated[
        Placement,
        typer.Option(
            metavar="KIND",
            help="How nodes are chosen: prefix (lowest predicted cost, with what their prefix caches hold), "
            "load, or round-robin.",
            rich_help_panel="HTTP",
        ),
    ] = "prefix"
    disaggregate: Annotated[
        Disaggregation,
        typer.Option(
            metavar="WHEN",
            help="Whether prompts go through prefill nodes: always, never, or auto: unless that is predicted "
            "to cost more than it saves.",
            rich_help_panel="HTTP",
        ),
    ] = "auto"

    canary_interval: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.0,
            help="Seconds without a handoff after which the router tries one itself, to know that it is "
            "ready. 0: never.",
            rich_help_panel="HTTP",
        ),
    ] = 20.0

    def keys(self) -> tuple[str, ...]:
        """Raises ConfigError on a key that no client could send, without saying what it is."""
        keys = tuple(self.api_key or ())
        if not all(map(is_key, keys)):
            raise ConfigError("an API key must be printable ASCII without spaces, and not empty")
        return keys

    def origins(self) -> tuple[str, ...]:
        """Also as vLLM takes them, in one JSON list."""
        found: list[str] = []
        for given in self.allowed_origins or ():
            try:
                found += json.loads(given) if given.startswith("[") else [given]
            except ValueError as error:
                raise ConfigError("--allowed-origins: write an origin, or a JSON list of them") from error
        return tuple(found)

    def options(self, model: str, names: NameFlags) -> RouterOptions:
        """A router but for its address in the cluster. Raises ConfigError."""
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
            dashboard=self.dashboard,
            otlp_endpoint=self.otlp_endpoint,
            log_level=names.log_level,
            log_format=names.log_format,
        )
        ring_of(made), context_of(made)  # here, before anything is downloaded or started
        return made


def _path(given: str | None) -> str | None:
    return None if given is None else str(Path(given).absolute())


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFlags:
    """For those that start a node."""

    kv_cache_memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Memory of each node for the KV cache, such as 512MiB. auto: 1GiB on a CPU, on a GPU what "
            "--gpu-memory-utilization leaves.",
            rich_help_panel="Engine",
        ),
    ] = "auto"
    gpu_memory_utilization: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0.01,
            max=1.0,
            help="Of a GPU's memory, what all nodes of this command on it may use in all.",
            rich_help_panel="Engine",
        ),
    ] = 0.9
    page_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Tokens in a page of the KV cache.",
            rich_help_panel="Engine",
        ),
    ] = 16
    dtype: Annotated[
        Dtype,
        typer.Option(
            metavar="DTYPE",
            help="Of weights and what is computed: auto, float32, bfloat16 or float16.",
            rich_help_panel="Engine",
        ),
    ] = "auto"
    kv_cache_dtype: Annotated[
        KVDtype,
        typer.Option(
            metavar="DTYPE",
            help="Of the KV cache: auto, float32 or bfloat16.",
            rich_help_panel="Engine",
        ),
    ] = "auto"
    quantization: Annotated[
        Quantization,
        typer.Option(
            metavar="METHOD",
            help="Of weights, on a CPU: auto, none, int8, or gguf (as the GGUF file has them).",
            rich_help_panel="Engine",
        ),
    ] = "auto"
    activation_bits: Annotated[
        ActivationBits,
        typer.Option(
            metavar="N",
            help="Of rows that weights of 4 bits multiply: 16 is as good as exact, 8 fastest, auto between.",
            rich_help_panel="Engine",
        ),
    ] = "auto"
    load_format: Annotated[
        LoadFormat,
        typer.Option(
            metavar="FORMAT",
            help="auto, or dummy: random weights in the model's shape.",
            rich_help_panel="Engine",
        ),
    ] = "auto"
    max_num_batched_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Tokens that one step computes; longer prompts take several. Default: 256 on a CPU, 2048 on "
            "a GPU.",
            rich_help_panel="Engine",
        ),
    ] = None
    max_num_mixed_tokens: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Of those, tokens of prompts in a step in which others decode, and wait for it.",
            rich_help_panel="Engine",
        ),
    ] = 128
    max_num_seqs: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Sequences that one step computes.", rich_help_panel="Engine"),
    ] = 64
    async_scheduling: Annotated[
        bool | None,
        typer.Option(
            "--async-scheduling/--no-async-scheduling",
            help="Give the device a step before the tokens of the last are seen. Default: on a GPU.",
            show_default=False,
            rich_help_panel="Engine",
        ),
    ] = None
    enforce_eager: Annotated[
        bool,
        typer.Option(
            "--enforce-eager",
            help="On a GPU, launch each kernel of a decode step by itself, without captured graphs.",
            rich_help_panel="Engine",
        ),
    ] = False
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="On a GPU too, answers do not depend on what else is computed with them. Slower. On a CPU "
            "it is always so.",
            rich_help_panel="Engine",
        ),
    ] = False
    direct_handoff: Annotated[
        bool,
        typer.Option(
            "--direct-handoff",
            help="Between GPUs of one host that reach each other's memory, KV goes without host memory (CUDA "
            "IPC). Experimental: not yet seen to work on a GPU.",
            rich_help_panel="Engine",
        ),
    ] = False
    no_prefix_caching: Annotated[
        bool,
        typer.Option(
            "--no-prefix-caching",
            help="Forget the pages of finished requests; they are kept for later ones that begin alike.",
            rich_help_panel="Engine",
        ),
    ] = False
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads-per-worker",
            metavar="N",
            min=1,
            help="Threads of each node for arithmetic. Default: this machine's cores, shared out evenly; "
            "beside decode nodes, prefill nodes also take, at a low priority, what those leave idle.",
            rich_help_panel="Engine",
        ),
    ] = None
    watchdog_timeout: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Seconds after which a node ends itself if its loop stands still; 0: never.",
            rich_help_panel="Engine",
        ),
    ] = 60

    def options(self, model: str, names: NameFlags, *, nodes: int) -> NodeOptions:
        """A node, one of ``nodes`` on this host, but for its role, its id and its addresses."""
        return NodeOptions(
            node_id="",
            role="",
            model=model,
            routers=(),
            dtype=self.dtype,
            load_format=self.load_format,
            quantization=self.quantization,
            kv_cache_dtype=self.kv_cache_dtype,
            activation_bits=self.activation_bits,
            max_model_len=names.max_model_len,
            page_size=self.page_size,
            kv_cache_bytes=None if self.kv_cache_memory == "auto" else sizes.parse_size(self.kv_cache_memory),
            gpu_memory_utilization=self.gpu_memory_utilization,
            async_scheduling=self.async_scheduling,
            cuda_graphs=not self.enforce_eager,
            deterministic=self.deterministic,
            direct_handoff=self.direct_handoff,
            max_batch_tokens=self.max_num_batched_tokens,
            max_mixed_tokens=self.max_num_mixed_tokens,
            max_num_seqs=self.max_num_seqs,
            threads=self.threads or max(1, machine.cores() // nodes),
            watchdog_s=self.watchdog_timeout,
            prefix_caching=not self.no_prefix_caching,
            served_model_name=names.names[0] if names.names else None,
            log_level=names.log_level,
            log_format=names.log_format,
        )


SecretFile = Annotated[
    str | None,
    typer.Option(
        "--cluster-secret-file",
        metavar="FILE",
        envvar="PAGEWIRE_CLUSTER_SECRET_FILE",
        help="A file of at least 32 bytes, the same on all hosts, that only its owner may read. "
        "Nothing listens beyond this host without it.",
        rich_help_panel="Cluster",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFlags:
    """For a node that is started by itself."""

    router: Annotated[
        list[str],
        typer.Option(
            metavar="tcp://HOST:PORT",
            help="The --listen address of the router; repeat it for several routers.",
            rich_help_panel="Cluster",
        ),
    ]
    node_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name that no other node has. Default: the role and this host's name.",
            rich_help_panel="Cluster",
        ),
    ] = None
    secret_file: SecretFile = None
