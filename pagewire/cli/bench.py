"""``pagewire bench``: how fast something is. Knows flags and tables; the measuring is in the library."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pagewire.cli import machine, sizes
from pagewire.cli.flags import DEFAULT_MODEL, ActivationBits, Dtype, LoadFormat, Model, Quantization

app = typer.Typer(no_args_is_help=True, help="Measure how fast something is.")


@app.callback()
def bench() -> None:
    """Measure how fast something is."""


@app.command()
def engine(
    model: Model = DEFAULT_MODEL,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Threads. Default: all cores of this machine.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(metavar="DTYPE", help="As for pagewire serve.")] = "auto",
    quantization: Annotated[
        Quantization, typer.Option(metavar="METHOD", help="As for pagewire serve.")
    ] = "auto",
    activation_bits: Annotated[
        ActivationBits, typer.Option(metavar="N", help="As for pagewire serve.")
    ] = "auto",
    load_format: Annotated[
        LoadFormat, typer.Option(metavar="FORMAT", help="As for pagewire serve.")
    ] = "auto",
    kv_cache_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory for the KV cache, such as 512MiB.")
    ] = "1GiB",
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Measure an engine offline: prompts of 256 tokens, and decoding 1, 8 and 32 sequences at once.

    Beside each rate stands the floor: what the machine's arithmetic and memory, measured in the same run,
    would allow. Let nothing else run meanwhile.

    [bold]Examples[/bold]:

        pagewire bench engine

        pagewire bench engine Qwen/Qwen3-0.6B --quantization int8 --threads 4 --json
    """
    import torch

    from pagewire.engine import bench as engine_bench
    from pagewire.engine.build import build_engine
    from pagewire.hub import resolve

    torch.set_num_threads(threads or machine.cores())
    console = Console(stderr=True)
    with console.status("loading") as status:
        built = build_engine(
            resolve(model),
            dtype=dtype,
            quantization=quantization,
            activation_bits=activation_bits,
            load_format=load_format,
            kv_cache_bytes=sizes.parse_size(kv_cache_memory),
            prefix_caching=False,
        )
        report = engine_bench.measure(built, status.update)
    facts = _facts(report) | {
        "dtype": dtype,
        "quantization": quantization,
        "activation_bits": activation_bits,
    }
    if as_json:
        print(json.dumps(facts))
    else:
        _show(model, facts)


def _facts(report: Any) -> dict[str, Any]:
    def plain(rates: Any) -> dict[str, Any]:
        return {"prefill": rates.prefill, "decode": {str(b): r for b, r in rates.decode.items()}}

    return plain(report.rates.median) | {
        "floor": plain(report.floor),
        "low": plain(report.rates.low),
        "high": plain(report.rates.high),
        "threads": report.threads,
        "peak_gops": 2 * report.peak / 1e9,
        "attention_peak_gops": 2 * report.attention_peak / 1e9,
        "bandwidth_gb_s": report.bandwidth / 1e9,
        "weight_bytes": report.weight_bytes,
        "cpu": machine.cpu_name(),
    }


def _show(model: str, facts: dict[str, Any]) -> None:
    title = f"{model}, {facts['quantization']}/{facts['dtype']}, {facts['threads']} threads, {facts['cpu']}"
    table = Table(title=title, title_justify="left")
    for column in ("tokens/s", "median", "lowest", "highest", "floor", "of the floor"):
        table.add_column(column, justify="left" if column == "tokens/s" else "right")
    rows: list[tuple[str, tuple[str, ...]]] = [("prefill, prompts of 256", ("prefill",))]
    rows += [(f"decode, {batch} at once", ("decode", batch)) for batch in facts["decode"]]
    for name, path in rows:
        median, low, high, floor = (
            _at(part, path) for part in (facts, facts["low"], facts["high"], facts["floor"])
        )
        table.add_row(name, *(f"{n:,.0f}" for n in (median, low, high, floor)), f"{median / floor:.0%}")
    console = Console()
    console.print(table)
    console.print(
        f"floor: {facts['peak_gops']:.0f} GOP/s, {facts['bandwidth_gb_s']:.1f} GB/s,"
        f" {facts['weight_bytes'] / 1e6:.0f} MB of weights"
    )


def _at(part: dict[str, Any], path: tuple[str, ...]) -> float:
    value: Any = part
    for key in path:
        value = value[key]
    return float(value)
