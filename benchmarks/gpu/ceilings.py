"""What the card reaches with nothing to think about: the largest rates that a kernel can be held against.

Each process that runs a section measures them itself at its start, in about a second: a card that has been
multiplying for minutes is slower than a fresh one, and a section is held against the card as it found it. It
also spares the sections from depending on another one's life.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.gpu.timing import Run, timer

_SECONDS = 0.1  # for each


def measure(device: torch.device) -> tuple[dict[str, float], dict[str, str]]:
    """TFLOP/s of bf16, fp8, int8 and GB/s of copy, h2d, d2h; and why some could not be measured."""
    found: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, one in _ALL.items():
        try:
            found[name] = one(device)
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}".split("\n")[0]
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found, missing


def _us(run: Run, device: torch.device) -> float:
    run()
    return timer([run], device, graph=False, seconds=_SECONDS).read()


def _side(device: torch.device) -> int:
    return 8192 if device.type == "cuda" else 64


def _bf16(device: torch.device) -> float:
    n = _side(device)
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    return _product(n, _us(lambda: torch.mm(a, b, out=out), device))


def _fp8(device: torch.device) -> float:
    n = _side(device)
    a, b = (torch.randn(n, n, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=device)
    scaled = torch._scaled_mm  # the only fp8 product that torch has
    return _product(
        n, _us(lambda: scaled(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16), device)
    )


def _int8(device: torch.device) -> float:
    n = _side(device)
    a, b = (torch.randint(-127, 128, (n, n), device=device).to(torch.int8) for _ in range(2))
    return _product(n, _us(lambda: torch._int_mm(a, b.t()), device))


def _product(n: int, us: float) -> float:
    return 2 * n**3 / us / 1e6


def _copy(device: torch.device) -> float:
    """Counts bytes read and bytes written."""
    words = 1 << 29 if device.type == "cuda" else 1 << 10
    source = torch.empty(words, dtype=torch.int32, device=device).random_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / _us(lambda: target.copy_(source), device) / 1e3


def _host(to_device: bool) -> Callable[[torch.device], float]:
    def one(device: torch.device) -> float:
        cuda = device.type == "cuda"
        host = torch.empty(1 << (25 if cuda else 9), dtype=torch.int64, pin_memory=cuda).random_()
        there = host.to(device, copy=True)
        source, target = (host, there) if to_device else (there, host)
        return host.nbytes / _us(lambda: target.copy_(source, non_blocking=True), device) / 1e3

    return one


_ALL: dict[str, Callable[[torch.device], float]] = {
    "copy": _copy,
    "bf16": _bf16,
    "fp8": _fp8,
    "int8": _int8,
    "h2d": _host(to_device=True),
    "d2h": _host(to_device=False),
}
