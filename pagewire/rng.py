"""Random numbers that are looked up, not drawn: a pure function of (seed, choice, position).

Philox4x32-10 is a keyed bijection of a 128-bit counter; there is no state to carry, so a draw is the same
whether its request ran alone, batched, preempted, handed off or migrated. Knows integers; knows no logits and
no torch.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11.
"""

from __future__ import annotations

Words = tuple[int, int, int, int]  # of 32 bits each

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = (1 << 32) - 1


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10 of one counter: four words that look independent and uniform."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        even, odd = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (odd >> 32) ^ c1 ^ k0, odd & _LOW, (even >> 32) ^ c3 ^ k1, even & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def uniform(seed: int, choice: int, position: int, lane: int = 0) -> float:
    """A number in [0, 1), a multiple of 2**-53, for the token at absolute ``position`` of ``choice``.

    The key is the seed's 64 bits (a negative seed by its two's complement); the counter's words are position
    (low, high), choice and lane. Different arguments within those widths never share a counter and key.
    ``lane`` tells apart further draws for the same token.
    """
    assert 0 <= position < 1 << 64
    assert 0 <= choice <= _LOW
    assert 0 <= lane <= _LOW
    key = (seed & _LOW, (seed >> 32) & _LOW)
    low, high, _, _ = philox((position & _LOW, position >> 32, choice, lane), key)
    return ((high << 32 | low) >> 11) * 2.0**-53
