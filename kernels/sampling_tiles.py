"""What programs that share a row of logits know of it, and how they search it together.

A row's state, int64: T tiles' largest logits with their ids; twice T tiles' weights above an edge and T
tiles' ties at it; 8192 bins (2048, 2048 and 1024 for the digits of logits, 1024, 1024 and 512 for those of
weights); 8 slots of two numbers. A slot holds what is known of an edge, after 0 to 3 digits of the k-th logit
(slots 0 to 3) or of the nucleus's lightest weight (4 to 7): the digits, and the rest that is still to be
found there, which is a number of logits or a sum of weights. Knows tiles, bins and slots; knows no parameter.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from kernels.backend import jit, tl

BINS = 8192
SLOTS = 8


@jit
def load(logits, tile, V, TILE: tl.constexpr):
    """[TILE] float32; -inf, which weighs nothing and comes last, behind the end."""
    at = tile * TILE + tl.arange(0, TILE)
    return tl.load(logits + at, mask=at < V, other=float("-inf")).to(tl.float32)


@jit
def of_tiles(state, AT: tl.constexpr, T: tl.constexpr, T_PAD: tl.constexpr):
    """[T_PAD] what is known of each tile."""
    t = tl.arange(0, T_PAD)
    return tl.load(state + AT * T + t, mask=t < T, other=0)


@jit
def best_of(state, T: tl.constexpr, T_PAD: tl.constexpr):
    """The row's largest image, and its lowest id."""
    t = tl.arange(0, T_PAD)
    packed = tl.max(tl.load(state + t, mask=t < T, other=-0x8000000000000000), axis=0)
    return (packed >> 32).to(tl.int32), 0x7FFFFFFF - (packed & 0x7FFFFFFF)


@jit
def keep(slots, SLOT: tl.constexpr, first, second):
    """For later launches. The other programs of the row know it by themselves."""
    if tl.program_id(1) == 0:
        tl.store(slots + 2 * SLOT, first)
        tl.store(slots + 2 * SLOT + 1, second)


@jit
def known(slots, SLOT: tl.constexpr):
    """(int32, int64) of a slot."""
    return tl.load(slots + 2 * SLOT).to(tl.int32), tl.load(slots + 2 * SLOT + 1)


@jit
def narrow(slots, bins, SLOT: tl.constexpr, WIDTH: tl.constexpr, FLIP: tl.constexpr):
    """(digits, rest) of ``SLOT`` and one digit more: the bin in which ``rest`` is reached from above.

    ``rest`` is then what must come out of that bin. The top bit of a first digit that has a sign is flipped.
    """
    digits, rest = known(slots, SLOT)
    bin = tl.arange(0, WIDTH)
    held = tl.load(bins + bin)
    from_here = tl.sum(held, axis=0) - tl.cumsum(held, axis=0) + held
    digit = tl.sum((from_here >= rest).to(tl.int32), axis=0) - 1
    rest -= tl.sum(tl.where(bin > digit, held, 0), axis=0)
    digits = (digits * WIDTH + digit - FLIP).to(tl.int32)
    keep(slots, SLOT + 1, digits, rest)
    return digits, rest


@jit
def shares_of(ties, quota):
    """Of each tile's ``ties`` [T_PAD], how many are among the ``quota`` with the lowest ids."""
    before = tl.cumsum(ties, axis=0) - ties
    return tl.minimum(tl.maximum(quota - before, 0), ties)


@jit
def of_tile(tiles, tile, T_PAD: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, T_PAD) == tile, tiles, 0), axis=0)


@jit
def among(value, edge, ties):
    """Which of a tile are above ``edge``, or among the first ``ties`` at it."""
    kept = value > edge
    if ties > 0:
        tie = value == edge
        kept = kept | (tie & (tl.cumsum(tie.to(tl.int32), axis=0) <= ties))
    return kept
