"""Products with a weight: batch-invariant in bf16, by 4 bits, by 8 bits. The MLP's two shapes of Qwen2.5-7B.

The invariant product has no target: what it takes beside cuBLAS is the price of deterministic mode. By 4 bits
up to 16 rows the weight's bytes are the floor, and bf16 must not be faster; a peer's weight is the same
numbers in bf16. By 8 bits the product is timed from codes to result, as its peers are, and the making of
codes by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F

from benchmarks.gpu.case import Case, Run, Target, Tune, World, relative_error
from kernels import matmul, matmul_w4, matmul_w8, quantise_rows
from kernels.matmul_w4_few import MOST_ROWS, few_shape
from kernels.matmul_w4_many import many_shape
from kernels.matmul_w8 import W8Weight
from kernels.w4_layouts import W4Weight, dequantise, pack_groups

WEIGHT = 2
CACHE = 100e6  # bytes that no cache holds
Use = Mapping[str, int]
FP8 = torch.float8_e4m3fn


def cases(world: World) -> Iterator[Case]:
    layers = {"gate_up": (70, 40), "down": (40, 72)}
    if not world.tiny:
        layers = {"gate_up": (37888, 3584), "down": (3584, 18944)}
    for layer, (n, k) in layers.items():
        yield from invariant_cases(world, layer, n, k)
        yield from w4_cases(world, layer, n, k)
    yield from w8_cases(world, *layers["gate_up"])
    yield from codes_cases(world, layers["gate_up"][1])


def invariant_cases(world: World, layer: str, n: int, k: int) -> Iterator[Case]:
    weight = torch.randn(n, k, dtype=torch.bfloat16, device=world.device)
    for t in (1, 17) if world.tiny else (1, 16, 64, 256, 2048, 8192):
        x = torch.randn(t, k, dtype=torch.bfloat16, device=world.device)
        out = torch.empty(t, n, dtype=torch.bfloat16, device=world.device)

        def run(x: torch.Tensor = x, out: torch.Tensor = out) -> None:
            matmul.launch(x, weight, None, out)

        def peer(x: torch.Tensor = x) -> torch.Tensor:
            return F.linear(x, weight)

        def reference(x: torch.Tensor = x) -> torch.Tensor:
            return matmul.matmul_reference(x, weight, None)

        yield Case(
            kernel="matmul invariant",
            shape=f"{layer} T={t}",
            runs=[run],
            wrong=checked(run, out, reference),
            tolerance=1e-2,
            nbytes=2 * (t * k + n * k + t * n),
            flops=2 * t * n * k,
            peers={"cuBLAS": [peer]},
            tune=Tune("matmul_invariant", matmul.shape(t, n, k), invariant_uses(t)) if t == 256 else None,
        )


def w4_cases(world: World, layer: str, n: int, k: int) -> Iterator[Case]:
    """Groups of 128 with zeros, as of AWQ, and Q4_0's of 32; in copies enough that no cache holds them."""
    for group, zeros in ((128, True), (32, False)):
        weights = [w4_weight(world, n, k, group, zeros)]
        copies = 1 if world.tiny else -(-int(CACHE) // weights[0].nbytes)
        weights += [w4_weight(world, n, k, group, zeros) for _ in range(copies - 1)]
        wide = dequantise(weights[0]).bfloat16()
        rows = (1, 70) if world.tiny else (16, 4, 1, 256, 2048) if group == 128 else (1,)
        for t in rows:
            yield w4_case(world, layer, weights, wide, t, invariant=False)
        if group == 128:
            yield w4_case(world, layer, weights, wide, 1, invariant=True)
        del weights, wide


def w4_case(
    world: World, layer: str, weights: Sequence[W4Weight], wide: torch.Tensor, t: int, *, invariant: bool
) -> Case:
    (n, k), group = weights[0].shape, weights[0].group
    x = torch.randn(t, k, dtype=torch.bfloat16, device=world.device)
    out = torch.empty(t, n, dtype=torch.bfloat16, device=world.device)

    def run(weight: W4Weight) -> Run:
        return lambda: matmul_w4.launch(x, weight, None, out, invariant)

    few = t <= MOST_ROWS and not invariant
    tune = None  # one of the cases that share an entry
    if few and (t == 16 or group == 32 or world.tiny):
        tune = Tune("matmul_w4_few", few_shape(t, n, k, group), FEW_USES)
    elif t == 2048:
        tune = Tune("matmul_w4_many", many_shape(t, n, k, group), w4_many_uses(t))
    return Case(
        kernel="matmul w4 invariant" if invariant else "matmul w4",
        shape=f"{layer} T={t} group {group}",
        runs=[run(weight) for weight in weights],
        wrong=checked(run(weights[0]), out, lambda: matmul_w4.matmul_w4_reference(x, weights[0], None)),
        tolerance=1e-2,
        nbytes=w4_bytes(n, k, group) + 2 * (t * k + t * n),
        flops=2 * t * n * k,
        peers={"bf16 cuBLAS": [lambda: F.linear(x, wide)]},
        target=Target("ceiling", 0.7) if few and t <= 16 else None,
        tune=tune,
    )


def w8_cases(world: World, n: int, k: int) -> Iterator[Case]:
    wide = torch.randn(n, k, dtype=torch.bfloat16, device=world.device)
    codes, scales = quantise_rows.quantise_rows_reference(wide, torch.int8)
    int8 = W8Weight.of(codes, scales)
    codes, scales = quantise_rows.quantise_rows_reference(wide, FP8)
    fp8 = W8Weight.of(codes, scales)
    blocks = W8Weight.of(codes, torch.rand(-(-n // 128), -(-k // 128), device=world.device))
    for t in (1, 17) if world.tiny else (16, 256, 4096):
        for title, weight in (("int8", int8), ("fp8", fp8), ("fp8 blocks", blocks)):
            if title != "fp8 blocks" or t in (17, 4096):
                yield w8_case(world, title, weight, wide, t)


def w8_case(world: World, title: str, weight: W8Weight, wide: torch.Tensor, t: int) -> Case:
    (n, k), code = weight.codes.shape, weight.codes.dtype
    x = torch.randn(t, k, dtype=torch.bfloat16, device=world.device)
    out = torch.empty(t, n, dtype=torch.bfloat16, device=world.device)
    codes, scales = quantise_rows.quantise_rows_reference(x, code)

    def run() -> None:
        matmul_w8.launch(codes, scales, weight, None, out)

    peers: dict[str, list[Run]] = {"bf16 cuBLAS": [lambda: F.linear(x, wide)]}
    if code == torch.int8:
        peers["torch._int_mm"] = [lambda: torch._int_mm(codes, weight.codes.T)]
    elif weight.scales.dim() == 1:
        a, b = scales[:, None], weight.scales[None, :]
        peers["torch._scaled_mm"] = [
            lambda: torch._scaled_mm(codes, weight.codes.T, a, b, out_dtype=torch.bfloat16)
        ]
    return Case(
        kernel=f"matmul w8 {title}",
        shape=f"gate_up T={t}",
        runs=[run],
        wrong=checked(run, out, lambda: matmul_w8.matmul_w8_reference(codes, scales, weight, None)),
        tolerance=1e-2,
        nbytes=t * k + n * k + 2 * t * n + weight.scales.nbytes + scales.nbytes,
        flops=2 * t * n * k,
        rate="int8" if code == torch.int8 else "fp8",
        peers=peers,
        tune=Tune(matmul_w8.name(code), matmul_w8.shape(t, n, k), w8_uses(t, code)) if code == FP8 else None,
    )


def codes_cases(world: World, k: int) -> Iterator[Case]:
    """Rows become codes: elementwise, the memory is the floor."""
    t = world.pick(8192, 3)
    for code in (torch.int8, FP8):
        xs = [torch.randn(t, k, dtype=torch.bfloat16, device=world.device) for _ in range(world.pick(2, 1))]
        codes, scales = torch.empty(t, k, dtype=code, device=world.device), xs[0].new_empty(t).float()

        def run(x: torch.Tensor, codes: torch.Tensor = codes, scales: torch.Tensor = scales) -> Run:
            return lambda: quantise_rows.launch(x, codes, scales)

        def wrong(
            x: torch.Tensor = xs[0], codes: torch.Tensor = codes, scales: torch.Tensor = scales
        ) -> float:
            codes.view(torch.uint8).fill_(0x7F)
            scales.fill_(float("nan"))
            quantise_rows.launch(x, codes, scales)
            return relative_error(codes.double() * scales.double()[:, None], x)

        def peer(x: torch.Tensor, code: torch.dtype = code) -> Run:
            return lambda: quantise_rows.quantise_rows_reference(x, code)

        yield Case(
            kernel="quantise rows",
            shape=f"{'int8' if code == torch.int8 else 'fp8'} T={t} K={k}",
            runs=[run(x) for x in xs],
            wrong=wrong,
            tolerance=1.5e-2 if code == torch.int8 else 0.2 if world.tiny else 4e-2,  # the interpreter's fp8
            nbytes=t * (3 * k + 4),
            flops=4 * t * k,
            peers={"torch eager": [peer(x) for x in xs]},
            target=Target("ceiling", 0.85),
        )


def checked(run: Run, out: torch.Tensor, reference: Callable[[], torch.Tensor]) -> Callable[[], float]:
    def wrong() -> float:
        out.fill_(float("nan"))
        run()
        return relative_error(out, reference())

    return wrong


def w4_weight(world: World, n: int, k: int, group: int, zeros: bool) -> W4Weight:
    """Random bits, in our layout at once."""
    words = 16 if group == 32 else 32
    blocks = -(-k // 256) * (32 // words)
    groups = blocks * 8 * words // group
    codes = torch.randint(-(2**31), 2**31, (blocks, n, words), dtype=torch.int32, device=world.device)
    scales = torch.rand(groups, n, device=world.device).add(0.1)
    kept = torch.randint(4, 12, (groups, n), device=world.device) if zeros else None
    return W4Weight(codes, pack_groups(scales, kept), False, group, (n, k))


def w4_bytes(n: int, k: int, group: int) -> int:
    """The fewest: codes, a scale of 16 bits a group and, of 128, a zero of 4. Our layout takes 32 a group."""
    return n * k // 2 + n * -(-k // group) * (5 if group == 128 else 4) // 2


def use(n: int, t: int, warps: int, stages: int, group: int = 8) -> Use:
    return {"BLOCK_N": n, "BLOCK_T": t, "num_warps": warps, "num_stages": stages, "GROUP": group}


def invariant_uses(t: int) -> list[Use]:
    if t <= 64:
        block_t = max(16, t)
        return [use(n, block_t, w, s) for n, w in ((64, 4), (128, 4), (128, 8)) for s in (4, 6, 8)]
    return [
        use(64, 128, 4, 4),
        use(64, 256, 4, 4),
        use(128, 128, 4, 4),
        use(128, 128, 8, 4),
        use(128, 256, 8, 3),
        use(128, 256, 8, 4),
        use(128, 256, 8, 4, 16),
        use(256, 128, 8, 4),
    ]


FEW_USES: list[Use] = [
    {"BLOCK_N": n, "num_warps": w, "num_stages": s}
    for n, w, stages in ((64, 4, (2, 3, 4, 5)), (32, 2, (3, 5)), (128, 8, (2, 3)), (128, 4, (3,)))
    for s in stages
]


def w4_many_uses(t: int) -> list[Use]:
    if t <= 64:
        return [use(64, max(16, t), 4, s) for s in (3, 5, 7)] + [use(128, max(16, t), 8, 4)]
    return [
        use(64, 128, 4, 4),
        use(64, 256, 4, 3),
        use(128, 128, 8, 3),
        use(128, 128, 8, 4),
        use(128, 256, 8, 3),
        use(128, 256, 8, 4),
        use(128, 256, 8, 4, 16),
    ]


def w8_uses(t: int, code: torch.dtype) -> list[Use]:
    if t <= 64:
        return [use(n, max(16, t), w, s) for n, w in ((64, 4), (128, 4)) for s in (3, 4, 6, 8)]
    both = [use(64, 128, 4, 3), use(64, 128, 4, 4), use(128, 128, 8, 3), use(128, 128, 8, 4)]
    # Of 256 rows fp8's two accumulators would spill.
    return both if code == FP8 else [*both, use(64, 256, 4, 4), use(128, 256, 8, 3), use(128, 256, 8, 4)]
