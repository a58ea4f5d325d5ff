"""The flags that several commands share, in groups: one spelling, one help text, one default for each.

Where vLLM has a flag of the same meaning, its spelling is accepted too. Knows flags; knows no command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from pagewire.cli import machine, sizes
from pagewire.cli.directory_flags import SecretFile
from pagewire.cli.name_flags import NameFlags
from pagewire.hub import DEMO
from pagewire.node_options import NodeOptions

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LoadFormat = Literal["auto", "dummy"]
KVDtype = Literal["auto", "float32", "bfloat16"]
Quantization = Literal["auto", "none", "int8", "gguf"]
ActivationBits = Literal["auto", "8", "16"]

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help='A hub id such as Qwen/Qwen3-0.6B, a folder, a .gguf file, or "demo" (SmolLM2-135M-Instruct).',
    ),
]
DEFAULT_MODEL = DEMO


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


Handoff = Annotated[
    str,
    typer.Option(
        metavar="tcp://HOST:PORT",
        help="Where prefill nodes reach this node. 0.0.0.0 stands for this host's address on the way to "
        "the router or to redis, port 0 for a free port. nixl://HOST:PORT moves KV by RDMA or NVLink, if "
        "NIXL is installed.",
        rich_help_panel="Cluster",
    ),
]

Grace = Annotated[
    float,
    typer.Option(
        "--grace",
        metavar="N",
        min=0.0,
        help="Seconds that requests in hand have to end after SIGTERM. A node then gives the rest back, to "
        "go on elsewhere.",
        rich_help_panel="Cluster",
    ),
]

AdminPort = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        help="A port of 127.0.0.1 on which nodes can be told to change their role: see pagewire role.",
        rich_help_panel="Cluster",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFlags:
    """For a node that is started by itself."""

    router: Annotated[
        list[str] | None,
        typer.Option(
            metavar="tcp://HOST:PORT",
            help="The --listen address of the router; repeat it for several routers. Or see --registry.",
            rich_help_panel="Cluster",
        ),
    ] = None
    node_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name that no other node has. Default: the role and this host's name.",
            rich_help_panel="Cluster",
        ),
    ] = None
    topology: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            envvar="PAGEWIRE_TOPOLOGY",
            help="Where the node is, from the widest to the nearest, such as zone/rack/host. Prompts go to "
            "nodes that are near each other where that is cheaper.",
            rich_help_panel="Cluster",
        ),
    ] = None
    secret_file: SecretFile = None
    trusted_network: Annotated[
        bool,
        typer.Option(
            "--trusted-network",
            help="Let NIXL move KV beyond this host, neither encrypted nor authenticated. For nixl:// "
            "between hosts, on each of them.",
            rich_help_panel="Cluster",
        ),
    ] = False
    grace: Grace = 30.0
