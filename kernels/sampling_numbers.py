"""The numbers of the sampler inside Triton kernels: logits as whole numbers, weights, draws.

The same to the bit as ``kernels/sampling.py`` and ``pagewire/rng.py``, which say what is computed. Each
operation in float32 must be rounded once: launch with ``enable_fp_fusion=False``. Knows numbers; knows no row
and no tile.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from kernels.backend import jit, tl


@jit
def image(x):
    """float32 -> int32 that orders as the logits do: both zeros are 0, NaN is above all."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    return tl.where(size > 0x7F800000, 0x7FFFFFFF, tl.where(bits < 0, -size, size))


@jit
def unimage(at):
    """What has the image ``at``, but for the sign of zero."""
    at = at.to(tl.int32)
    return tl.where(at < 0, -at | -0x80000000, at).to(tl.float32, bitcast=True)


@jit
def finite(best):
    """Of a row's largest image: True unless the row holds NaN or +inf, or nothing but -inf."""
    return (best > -0x7F800000) & (best < 0x7F800000)


@jit
def weigh(x, best, heat, least):
    """(weight, key) of logits ``x``: int64, and int32 that orders as the weights do: 0 for a weight of 1, -1
    for one of 0.

    A weight is a float32 that is whole, so its bits order it. What is added to a number and taken away again
    rounds it to the nearest whole one, ties to even: 1.5 * 2^23 where it may be negative, 2^23 where not.
    """
    z = tl.maximum((x - best) * heat, -64.0)
    shifted = z * 1.44269504088896341 + 12582912.0
    n = shifted - 12582912.0
    r = (z - n * 0.693359375) - n * -2.12194440e-4
    p = r * (1.0 / 5040) + 1.0 / 720
    p = p * r + 1.0 / 120
    p = p * r + 1.0 / 24
    p = p * r + 1.0 / 6
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    # times 2^(n + 40): the lowest bits of the shifted n are those of n
    p = p * ((shifted.to(tl.int32, bitcast=True) + 167) << 23).to(tl.float32, bitcast=True)
    p = tl.where(p < 8388608.0, (p + 8388608.0) - 8388608.0, p)
    w = p.to(tl.int64)
    enough = (w >= least) & (w > 0)
    return tl.where(enough, w, 0), tl.where(enough, p.to(tl.int32, bitcast=True) - 0x3F800000, -1)


@jit
def weight_of(key):
    """The weight that has ``key``, which is not negative."""
    return (key + 0x3F800000).to(tl.int32).to(tl.float32, bitcast=True).to(tl.int64)


@jit
def share(top_p, total):
    """ceil(top_p * total), in float64, and no more than ``total``."""
    exact = top_p * total.to(tl.float64)
    whole = exact.to(tl.int64)
    return tl.minimum(total, whole + (whole.to(tl.float64) < exact).to(tl.int64))


@jit
def uniform(seed, position, choice):
    """Philox4x32-10 of one token: uint64 below 2^53. The arguments are int64."""
    low = 0xFFFFFFFF
    c0, c1 = position.to(tl.uint64) & low, position.to(tl.uint64) >> 32
    c2, c3 = choice.to(tl.uint64) & low, choice.to(tl.uint64) >> 32
    k0, k1 = seed.to(tl.uint64) & low, seed.to(tl.uint64) >> 32
    for _ in tl.static_range(10):
        even, odd = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0 = (odd >> 32) ^ c1 ^ k0
        c1 = odd & low
        c2 = (even >> 32) ^ c3 ^ k1
        c3 = even & low
        k0 = (k0 + 0x9E3779B9) & low
        k1 = (k1 + 0xBB67AE85) & low
    return (c1 << 32 | c0) >> 11


@jit
def part_of(fraction, total):
    """fraction * total >> 53, of 128 bits: ``fraction`` uint64 below 2^53, ``total`` int64."""
    whole = total.to(tl.uint64)
    return ((tl.umulhi(fraction, whole) << 11) | ((fraction * whole) >> 53)).to(tl.int64)
