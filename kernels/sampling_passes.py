"""The passes over rows of logits by which tokens are chosen: see ``kernels.sampling_triton``.

Program (n, i) takes part in the n-th token to choose; tiles are dealt in turn to the programs of a token. All
kernels have the same arguments. In a pass every program first works out, from what the launch before left,
where its token's search stands. Knows one row of logits and its parameters; knows no launch but its own.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from kernels.backend import jit, tl
from kernels.sampling_numbers import finite, image, part_of, share, uniform, unimage, weigh, weight_of
from kernels.sampling_tiles import among, best_of, keep, known, load, narrow, of_tile, of_tiles, shares_of


@jit
def peak_kernel(
    logits, stride, V, heat, top_p, top_k, least, seed, position, choice, row, state, out,
    T: tl.constexpr, T_PAD: tl.constexpr, TILE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    n, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    logits += tl.load(row + n) * stride
    state += n * SIZE
    for tile in range(part, T, tl.num_programs(1)):
        ids = tile * TILE + tl.arange(0, TILE)
        images = image(load(logits, tile, V, TILE)).to(tl.int64)
        tl.store(state + tile, tl.max((images << 32) | (0x7FFFFFFF - ids), axis=0))
    k = tl.load(top_k + n)
    limited = ((k > 0) & (k < V)) | (tl.load(top_p + n) < 1.0)
    if limited & (tl.load(heat + n) != 0.0):
        for block in range(part, 8, tl.num_programs(1)):
            clear = tl.zeros((1024,), tl.int64)
            tl.store(state + 5 * T + block * 1024 + tl.arange(0, 1024), clear)


@jit
def count_kernel(
    logits, stride, V, heat, top_p, top_k, least, seed, position, choice, row, state, out,
    ROUND: tl.constexpr, T: tl.constexpr, T_PAD: tl.constexpr, TILE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    n, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    k = tl.load(top_k + n)
    if (tl.load(heat + n) == 0.0) | (k <= 0) | (k >= V):
        return
    logits += tl.load(row + n) * stride
    state += n * SIZE
    bins = state + 5 * T
    slots = bins + 8192
    if ROUND == 0:
        # k tiles hold a logit as large as the k-th of their largest
        t = tl.arange(0, T_PAD)
        peaks = tl.where(t < T, of_tiles(state, 0, T, T_PAD) >> 32, -0x80000000)
        ranked = tl.sort(peaks.to(tl.int32), descending=True)
        low = tl.where(k <= T, tl.sum(tl.where(t == k - 1, ranked, 0), axis=0), -0x80000000)
        keep(slots, 0, tl.zeros((), tl.int64), k)
    elif ROUND == 1:
        digits, _ = narrow(slots, bins, 0, 2048, 1024)
    else:
        digits, _ = narrow(slots, bins + 2048, 1, 2048, 0)
    for tile in range(part, T, tl.num_programs(1)):
        images = image(load(logits, tile, V, TILE))
        one = tl.full((TILE,), 1, tl.int64)
        if ROUND == 0:
            tl.atomic_add(bins + ((images >> 21) + 1024), one, mask=images >= low, sem="relaxed")
        elif ROUND == 1:
            here = (images >> 21) == digits
            tl.atomic_add(bins + 2048 + ((images >> 10) & 2047), one, mask=here, sem="relaxed")
        else:
            here = (images >> 10) == digits
            tl.atomic_add(bins + 4096 + (images & 1023), one, mask=here, sem="relaxed")


@jit
def mass_kernel(
    logits, stride, V, heat, top_p, top_k, least, seed, position, choice, row, state, out,
    NUCLEUS: tl.constexpr, T: tl.constexpr, T_PAD: tl.constexpr, TILE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Of each tile the weight above the edge, and the ties at it. The edge is the nucleus's lightest weight
    if NUCLEUS, else the k-th logit."""
    n, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    hot = tl.load(heat + n)
    if hot == 0.0:
        return
    if NUCLEUS:  # noqa: SIM102
        if tl.load(top_p + n) >= 1.0:
            return
    logits += tl.load(row + n) * stride
    state += n * SIZE
    bins = state + 5 * T
    slots = bins + 8192
    best, _ = best_of(state, T, T_PAD)
    if not finite(best):
        return
    top = unimage(best)
    floor = tl.load(least + n)
    if NUCLEUS:
        edge, quota = known(slots, 3)
        key, _ = narrow(slots, bins + 7168, 6, 512, 0)
    else:
        edge, quota = tl.full((), -0x80000000, tl.int32), tl.zeros((), tl.int64)
        k = tl.load(top_k + n)
        if (k > 0) & (k < V):
            edge, quota = narrow(slots, bins + 4096, 2, 1024, 0)
        keep(slots, 3, edge, quota)
    shares = shares_of(of_tiles(state, 2, T, T_PAD), quota)
    for tile in range(part, T, tl.num_programs(1)):
        above, ties = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
        if (tl.load(state + tile) >> 32) >= edge:
            x = load(logits, tile, V, TILE)
            weights, keys = weigh(x, top, hot, floor)
            if NUCLEUS:
                kept = among(image(x), edge, of_tile(shares, tile, T_PAD))
                above = tl.sum(tl.where(kept & (keys > key), weights, 0), axis=0)
                ties = tl.sum((kept & (keys == key)).to(tl.int64), axis=0)
            else:
                above = tl.sum(tl.where(image(x) > edge, weights, 0), axis=0)
                ties = tl.sum((image(x) == edge).to(tl.int64), axis=0)
        tl.store(state + (3 if NUCLEUS else 1) * T + tile, above)
        tl.store(state + (4 if NUCLEUS else 2) * T + tile, ties)


@jit
def weigh_kernel(
    logits, stride, V, heat, top_p, top_k, least, seed, position, choice, row, state, out,
    ROUND: tl.constexpr, T: tl.constexpr, T_PAD: tl.constexpr, TILE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    n, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    hot, p = tl.load(heat + n), tl.load(top_p + n)
    if (hot == 0.0) | (p >= 1.0):
        return
    logits += tl.load(row + n) * stride
    state += n * SIZE
    bins = state + 5 * T
    slots = bins + 8192
    best, _ = best_of(state, T, T_PAD)
    if not finite(best):
        return
    top = unimage(best)
    floor = tl.load(least + n)
    edge, quota = known(slots, 3)
    shares = shares_of(of_tiles(state, 2, T, T_PAD), quota)
    if ROUND == 0:
        of_ties, _ = weigh(unimage(edge), top, hot, floor)
        total = tl.sum(of_tiles(state, 1, T, T_PAD), axis=0) + quota * of_ties
        target = share(p, total)
        keep(slots, 4, tl.zeros((), tl.int64), target)
        # T * TILE weights below this are together no more than what may be left
        low = (total - target) // (T * TILE) + 1
    elif ROUND == 1:
        digits, _ = narrow(slots, bins + 5120, 4, 1024, 0)
    else:
        digits, _ = narrow(slots, bins + 6144, 5, 1024, 0)
    for tile in range(part, T, tl.num_programs(1)):
        if (tl.load(state + tile) >> 32) >= edge:
            x = load(logits, tile, V, TILE)
            weights, keys = weigh(x, top, hot, floor)
            kept = among(image(x), edge, of_tile(shares, tile, T_PAD))
            if ROUND == 0:
                tl.atomic_add(
                    bins + 5120 + (keys >> 19), weights, mask=kept & (weights >= low), sem="relaxed"
                )
            elif ROUND == 1:
                kept = kept & ((keys >> 19) == digits)
                tl.atomic_add(bins + 6144 + ((keys >> 9) & 1023), weights, mask=kept, sem="relaxed")
            else:
                kept = kept & ((keys >> 9) == digits)
                tl.atomic_add(bins + 7168 + (keys & 511), weights, mask=kept, sem="relaxed")


@jit
def draw_kernel(
    logits, stride, V, heat, top_p, top_k, least, seed, position, choice, row, state, out,
    T: tl.constexpr, T_PAD: tl.constexpr, TILE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    state += n * SIZE
    best, first = best_of(state, T, T_PAD)
    hot = tl.load(heat + n)
    if (hot == 0.0) | (not finite(best)):
        tl.store(out + n, tl.where(finite(best), first, -1))
        return
    logits += tl.load(row + n) * stride
    slots = state + 5 * T + 8192
    top = unimage(best)
    floor = tl.load(least + n)
    edge, quota = known(slots, 3)
    of_ties, _ = weigh(unimage(edge), top, hot, floor)
    shares = shares_of(of_tiles(state, 2, T, T_PAD), quota)
    masses = of_tiles(state, 1, T, T_PAD) + shares * of_ties
    key = tl.full((), -1, tl.int32)
    light = tl.zeros((T_PAD,), tl.int64)
    if tl.load(top_p + n) < 1.0:
        key, rest = known(slots, 7)
        each = weight_of(key)
        quota = (rest + each - 1) // each
        light = shares_of(of_tiles(state, 4, T, T_PAD), quota)
        masses = of_tiles(state, 3, T, T_PAD) + light * each
    fraction = uniform(tl.load(seed + n), tl.load(position + n), tl.load(choice + n))
    mark = part_of(fraction, tl.sum(masses, axis=0))
    sums = tl.cumsum(masses, axis=0)
    tile = tl.sum((sums <= mark).to(tl.int32), axis=0)
    mark -= tl.sum(tl.where(tl.arange(0, T_PAD) < tile, masses, 0), axis=0)
    x = load(logits, tile, V, TILE)
    weights, keys = weigh(x, top, hot, floor)
    kept = among(image(x), edge, of_tile(shares, tile, T_PAD))
    kept = kept & among(tl.where(kept, keys, -1), key, of_tile(light, tile, T_PAD))
    sums = tl.cumsum(tl.where(kept, weights, 0), axis=0)
    tl.store(out + n, tile * TILE + tl.sum((sums <= mark).to(tl.int64), axis=0))
