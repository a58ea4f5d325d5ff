"""x @ weight.T + bias in which a row's bits depend on that row and the weights alone: batch-invariant.

Each element of the result is one chain of sums over K, first to last, in fp32, in one program: no split of K.
What makes its bits the same whatever T is and wherever the row stands: in bf16 and fp16 every product is
Hopper's wgmma with M = 64 and K = 16, reading both operands from shared memory and adding into the same
accumulator. To that end a tile has a multiple of 64 weight rows and 4 or 8 warps (with fewer of either Triton
would use mma.sync, whose sums run in another order), and rows are only padded. The tile's other measures
follow T: how many columns an instruction yields and how many K are fetched at once do not enter an element's
chain. In float32 one fused multiplication and addition follows the other, first K to last, in any tile; no
tensor core takes part. The idea is that of "Defeating nondeterminism in LLM inference" (He 2025).

Knows matrices; knows no model. The price: where rows are few and the weight is narrow there are fewer
programs than a GPU could run, as K may not be split among them.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch

from kernels import tuned
from kernels.backend import tl
from kernels.matmul_tiles import jit_rows, operand, tile_of, tiles

BLOCK_K = 64  # bf16, fp16: 128 bytes, a whole line of swizzled shared memory
BLOCK_K_FP32 = 32


def matmul_invariant(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x[T, K]``, ``weight[N, K]``, ``bias[N]`` of one dtype -> ``[T, N]``.

    Reads T K + N K + N, writes T N numbers, for 2 T N K operations.
    """
    out = x.new_empty(x.shape[0], weight.shape[0])
    if x.shape[0]:
        launch(x, weight, bias, out)
    return out


def matmul_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Sums in float64, not rounded: reads T K + N K + N, writes T N numbers and the wide copies."""
    y = x.double() @ weight.double().T
    return y if bias is None else y + bias.double()


@jit_rows
def _matmul_kernel(
    x,
    weight,
    bias,
    out,
    T,
    N,
    K,
    x_stride,
    weight_stride,
    out_stride,
    BIAS: tl.constexpr,
    OPERAND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    tile_n, tile_t = tile_of(tl.program_id(0), N, T, BLOCK_N, BLOCK_T, GROUP)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    t = tile_t * BLOCK_T + tl.arange(0, BLOCK_T)
    k = tl.arange(0, BLOCK_K)
    weights = weight + n.to(tl.int64)[:, None] * weight_stride + k[None, :]
    rows = x + t.to(tl.int64)[:, None] * x_stride + k[None, :]
    total = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    for first in range(0, K, BLOCK_K):
        inside = (k < K - first)[None, :]
        w = tl.load(weights + first, mask=(n < N)[:, None] & inside, other=0.0)
        r = tl.load(rows + first, mask=(t < T)[:, None] & inside, other=0.0)
        total = tl.dot(w.to(OPERAND), tl.trans(r.to(OPERAND)), total, input_precision="ieee")
    if BIAS:  # after the sums: at their start it would be one more term in their order
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    to = out + t.to(tl.int64)[:, None] * out_stride + n[None, :]
    held = (t < T)[:, None] & (n < N)[None, :]
    tl.store(to, tl.trans(total.to(out.dtype.element_ty)), mask=held)


def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """One program a tile of ``[BLOCK_N weight rows, BLOCK_T rows]``; writes ``out[T, N]``."""
    (t, k), n = x.shape, weight.shape[0]
    assert weight.shape[1] == k, (x.shape, weight.shape)
    assert out.shape == (t, n), (out.shape, t, n)
    assert bias is None or bias.shape == (n,), (bias.shape if bias is not None else None, n)
    assert x.dtype == weight.dtype == out.dtype, (x.dtype, weight.dtype, out.dtype)
    assert x.stride(1) == weight.stride(1) == out.stride(1) == 1, (x.stride(), weight.stride())
    use = tuned.config(name(x.dtype), shape(t, n, k), default(t, x.dtype), x.device)
    assert use["BLOCK_N"] % 64 == 0, use
    assert use["num_warps"] in (4, 8), use
    _matmul_kernel[(tiles(n, t, use["BLOCK_N"], use["BLOCK_T"]),)](
        x,
        weight,
        weight if bias is None else bias,
        out,
        t,
        n,
        k,
        x.stride(0),
        weight.stride(0),
        out.stride(0),
        BIAS=bias is not None,
        OPERAND=operand(x.dtype),
        BLOCK_K=BLOCK_K_FP32 if x.dtype == torch.float32 else BLOCK_K,
        **use,
    )


def name(dtype: torch.dtype) -> str:
    """Under which ``kernels.tuned`` keeps the tiles: 4-byte numbers need smaller ones."""
    return "matmul_invariant_fp32" if dtype == torch.float32 else "matmul_invariant"


def shape(t: int, n: int, k: int) -> tuned.Shape:
    return {"t": tuned.bucket(t), "n": tuned.bucket(n), "k": tuned.bucket(k)}


def default(t: int, dtype: torch.dtype) -> tuned.Use:
    """By the rows: few are a matter of bytes in flight, many of products a byte of shared memory.

    16 rows: a stage is 8 KiB of weights and 2 of x, so two programs an SM keep 2 x 7 x 8 KiB in flight, of
    which 33 would hide a latency of 1.3 microseconds. 512 rows: 128 x 256 tiles, 64 operations for each byte
    read from L2, 48 KiB a stage.
    """
    if dtype == torch.float32:
        return {"BLOCK_N": 64, "BLOCK_T": 32, "GROUP": 8, "num_warps": 4, "num_stages": 3}
    if t <= 64:
        block_t = max(16, tuned.bucket(t))
        return {
            "BLOCK_N": 64,
            "BLOCK_T": block_t,
            "GROUP": 8,
            "num_warps": 4,
            "num_stages": 8 if t <= 32 else 6,
        }
    if t <= 256:
        return {"BLOCK_N": 64, "BLOCK_T": 128, "GROUP": 8, "num_warps": 4, "num_stages": 4}
    return {"BLOCK_N": 128, "BLOCK_T": 256, "GROUP": 8, "num_warps": 8, "num_stages": 4}
