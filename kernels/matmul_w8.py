"""x @ weight.T + bias with 8-bit codes on both sides: int8, or fp8 (e4m3).

x's rows are quantised as they come, each by its own scale. Sums of int8 are exact in int32, in any order. In
fp8 Hopper's tensor cores keep about 14 bits of a running sum, so after 128 columns it is added to one in fp32
(as DeepSeek-V3, 2024, does), where a block's scale multiplies it too; the products are wgmma with M = 64, as
in ``kernels.matmul``. Either way a row's bits depend on that row and the weights alone.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels import tuned
from kernels.backend import tl
from kernels.matmul_tiles import jit_rows, tile_of, tiles
from kernels.quantise_rows import LARGEST, quantise_rows

BLOCK = 128  # rows and columns of a weight that share a scale; columns that fp8 sums before fp32 does


@dataclass(frozen=True)
class W8Weight:
    """``weight[n, k] = codes[n, k] * scales[n]``, or ``* scales[n // 128, k // 128]``."""

    codes: torch.Tensor  # [N, K] int8 or float8_e4m3fn
    scales: torch.Tensor  # [N], or of fp8 [N / 128, K / 128] rounded up; fp32

    @staticmethod
    def of(codes: torch.Tensor, scales: torch.Tensor | float) -> W8Weight:
        """``scales``: one number, ``[N]``, ``[N, 1]``, or of blocks ``[N / 128, K / 128]``."""
        assert codes.dtype in LARGEST, codes.dtype
        n, k = codes.shape
        wide = torch.as_tensor(scales, dtype=torch.float32, device=codes.device)
        blocks = (-(-n // BLOCK), -(-k // BLOCK))
        if wide.numel() == 1:
            wide = wide.reshape(1).repeat(n)
        elif wide.numel() == n and wide.shape[0] == n:
            wide = wide.reshape(n)
        assert wide.shape in ((n,), blocks), (wide.shape, codes.shape)
        assert wide.dim() == 1 or codes.dtype != torch.int8, "int8 has a scale a row"
        return W8Weight(codes.contiguous(), wide.contiguous())


def matmul_w8(x: torch.Tensor, weight: W8Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x[T, K]``, ``weight[N, K]``, ``bias[N]`` -> ``[T, N]`` in x's dtype.

    Reads T K + N numbers and N K bytes, writes T N numbers and T K codes that it reads again.
    """
    codes, scales = quantise_rows(x, weight.codes.dtype)
    out = x.new_empty(x.shape[0], weight.codes.shape[0])
    if x.shape[0]:
        launch(codes, scales, weight, bias, out)
    return out


def dequantise(weight: W8Weight) -> torch.Tensor:
    """``[N, K]`` in float64, exact."""
    (n, k), scales = weight.codes.shape, weight.scales.double()
    if scales.dim() == 1:
        return weight.codes.double() * scales[:, None]
    return weight.codes.double() * scales.repeat_interleave(BLOCK, 0)[:n].repeat_interleave(BLOCK, 1)[:, :k]


def matmul_w8_reference(
    codes: torch.Tensor, scales: torch.Tensor, weight: W8Weight, bias: torch.Tensor | None
) -> torch.Tensor:
    """Of the codes, in float64, not rounded: reads (T + N) K bytes, writes T N numbers and wide copies."""
    y = codes.double() @ dequantise(weight).T * scales.double()[:, None]
    return y if bias is None else y + bias.double()


@jit_rows
def _w8_kernel(
    x,
    x_scales,
    weight,
    scales,
    bias,
    out,
    T,
    N,
    K,
    out_stride,
    BIAS: tl.constexpr,
    INT8: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    tile_n, tile_t = tile_of(tl.program_id(0), N, T, BLOCK_N, BLOCK_T, GROUP)
    n, t = tile_n * BLOCK_N + tl.arange(0, BLOCK_N), tile_t * BLOCK_T + tl.arange(0, BLOCK_T)
    k = tl.arange(0, BLOCK_K)
    weights = weight + n.to(tl.int64)[:, None] * K + k[None, :]
    rows = x + t.to(tl.int64)[:, None] * K + k[None, :]
    if INT8:
        total = tl.zeros([BLOCK_N, BLOCK_T], tl.int32)
    else:
        total = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    for first in range(0, K, BLOCK_K):
        inside = (k < K - first)[None, :]
        w = tl.load(weights + first, mask=(n < N)[:, None] & inside, other=0.0)
        r = tl.load(rows + first, mask=(t < T)[:, None] & inside, other=0.0)
        if INT8:
            total = tl.dot(w, tl.trans(r), total, out_dtype=tl.int32)
        elif BLOCKS:  # a tile's weight rows all lie in one block
            scale = tl.load(scales + tile_n * BLOCK_N // 128 * tl.cdiv(K, 128) + first // 128)
            total = tl.fma(
                tl.dot(w, tl.trans(r)), tl.full([BLOCK_N, BLOCK_T], 1.0, tl.float32) * scale, total
            )
        else:
            total = tl.dot(w, tl.trans(r), total, max_num_imprecise_acc=BLOCK_K)
    result = total.to(tl.float32) * tl.load(x_scales + t, mask=t < T, other=0.0)[None, :]
    if not BLOCKS:
        result = result * tl.load(scales + n, mask=n < N, other=0.0)[:, None]
    if BIAS:
        result += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    to = out + t.to(tl.int64)[:, None] * out_stride + n[None, :]
    tl.store(to, tl.trans(result.to(out.dtype.element_ty)), mask=(t < T)[:, None] & (n < N)[None, :])


def launch(
    codes: torch.Tensor,
    scales: torch.Tensor,
    weight: W8Weight,
    bias: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """``codes[T, K]``, ``scales[T]`` of x: one program a tile of ``[BLOCK_N weight rows, BLOCK_T rows]``."""
    (t, k), n = codes.shape, weight.codes.shape[0]
    assert weight.codes.shape[1] == k, (codes.shape, weight.codes.shape)
    assert out.shape == (t, n), (out.shape, t, n)
    assert out.stride(1) == 1, out.stride()
    assert bias is None or bias.shape == (n,), (bias.shape if bias is not None else None, n)
    assert codes.dtype == weight.codes.dtype, (codes.dtype, weight.codes.dtype)
    assert codes.is_contiguous()
    assert weight.codes.is_contiguous()
    int8, blocks = codes.dtype == torch.int8, weight.scales.dim() == 2
    use = tuned.config(name(codes.dtype), shape(t, n, k), default(t), codes.device)
    assert use["BLOCK_N"] in (64, 128), use
    assert use["num_warps"] in (4, 8), use
    _w8_kernel[(tiles(n, t, use["BLOCK_N"], use["BLOCK_T"]),)](
        codes,
        scales,
        weight.codes,
        weight.scales,
        scales if bias is None else bias,
        out,
        t,
        n,
        k,
        out.stride(0),
        BIAS=bias is not None,
        INT8=int8,
        BLOCKS=blocks,
        BLOCK_K=BLOCK,
        enable_fp_fusion=False,  # which the compiler might do in one tile and not in another
        **use,
    )


def name(dtype: torch.dtype) -> str:
    return "matmul_w8_int8" if dtype == torch.int8 else "matmul_w8_fp8"


def shape(t: int, n: int, k: int) -> tuned.Shape:
    return {"t": tuned.bucket(t), "n": tuned.bucket(n), "k": tuned.bucket(k)}


def default(t: int) -> tuned.Use:
    """As of ``kernels.matmul``, with twice the columns a stage in the same bytes.

    128 x 128 at most: what fp8 sums and what fp32 sums are two accumulators.
    """
    if t <= 64:
        block_t = max(16, tuned.bucket(t))
        return {"BLOCK_N": 64, "BLOCK_T": block_t, "GROUP": 8, "num_warps": 4, "num_stages": 6}
    if t <= 256:
        return {"BLOCK_N": 64, "BLOCK_T": 128, "GROUP": 8, "num_warps": 4, "num_stages": 4}
    return {"BLOCK_N": 128, "BLOCK_T": 128, "GROUP": 8, "num_warps": 8, "num_stages": 4}
