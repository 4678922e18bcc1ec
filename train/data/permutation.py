"""Compute single values of a keyed shuffle of 0..n-1 without storing it.

Above 1,024 numbers the shuffle is a Feistel network over Z_a x Z_b, with a * b just above n and additions modulo a and
b as rounds; results of n and above go through it again (Black and Rogaway, "Ciphers with arbitrary finite domains",
CT-RSA 2002: generalised Feistel and cycle walking). Each round adds to one half a function of the other, which can be
subtracted again, so it is a bijection whatever the round function. Up to 1,024 numbers the shuffle is the order of
their hashes, with all n! orders equally likely; a few rounds on a tiny domain are less uniform.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from usjepa.train.counter import bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Words = NDArray[np.uint64]

_SORTED_UP_TO = 1024
_ROUNDS = 8
"""Luby and Rackoff (1988) need 4 for a few queries; 8 pass every test of randomness in tests/train/data."""


def permuted(key: Words, numbers: Ints, n: int) -> Ints:
    """Return where a shuffle sends some of the numbers 0..n-1.

    Args:
        key: uint64 [], names the shuffle.
        numbers: int64 [m], each in 0..n-1.
        n: how many numbers are shuffled, at most 2**62.

    Returns:
        int64 [m], each in 0..n-1; different numbers go to different places.
    """
    if n <= _SORTED_UP_TO:
        order: Ints = np.argsort(bits(key, np.arange(n, dtype=np.uint64)), kind="stable").astype(np.int64)
        return order[numbers]
    high = math.isqrt(n - 1) + 1
    low = -(-n // high)
    keys = [bits(key, i) for i in range(_ROUNDS)]
    sizes = np.uint64(high), np.uint64(low)
    found = _rounds(keys, numbers.astype(np.uint64), *sizes)
    while (outside := np.flatnonzero(found >= np.uint64(n))).size:  # high * low - n < high: rarely more than once
        found[outside] = _rounds(keys, found[outside], *sizes)
    return found.astype(np.int64)


def _rounds(keys: list[Words], numbers: Words, high: np.uint64, low: np.uint64) -> Words:
    """Apply the network once: a bijection of 0..high*low-1, uint64 [m] to uint64 [m]."""
    left, right = numbers // low, numbers % low
    for i, key in enumerate(keys):
        if i % 2:
            right = (right + bits(key, left) % low) % low
        else:
            left = (left + bits(key, right) % high) % high
    mixed: Words = left * low + right
    return mixed
