"""Draw random numbers that depend on nothing but the things that may change them.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) gives each key a stream of its own, so a
frame, a view or a resample is the same whatever the order, worker or machine it is drawn on. No state is shared or
global. Named streams (`generator`) hash their names into the key; numbered ones (`keyed_generator`) take two words as
they are, which is what reports and stores on disk were made with. Training draws for thousands of rows at a time, on a
GPU too, which Philox can't: see `train/counter.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.identity import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

_WORD = 2**64 - 1


def generator(*parts: str | int) -> np.random.Generator:
    """Return the generator whose 128-bit key is the xxh3-128 of the parts; begin with the name of the use."""
    return np.random.Generator(np.random.Philox(key=xxhash.xxh3_128_intdigest(canonical(list(parts)))))


def uniforms(streams: Iterable[Sequence[str | int]], count: int) -> NDArray[np.float64]:
    """Return the first `count` numbers in [0, 1) of each stream's `generator`, float64 [n, count].

    One generator is set to each key in turn: to make one takes four times as long, and tables have millions of rows.
    """
    bits = np.random.Philox(key=0)
    start, drawing = bits.state, np.random.Generator(bits)
    drawn = []
    for parts in streams:
        key = xxhash.xxh3_128_intdigest(canonical(list(parts)))
        start["state"]["key"][:] = key & _WORD, key >> 64
        bits.state = start
        drawn.append(drawing.random(count))
    return np.array(drawn).reshape(-1, count)


def keyed_generator(first: int, second: int) -> np.random.Generator:
    """Return the generator whose 128-bit key is two 64-bit words, each from 0 to 2**64 - 1."""
    return np.random.Generator(np.random.Philox(key=[first, second]))


def fraction(*parts: str | int) -> float:
    """Return a number in [0, 1) that is a pure function of the parts: a patient's does not depend on the others."""
    return xxhash.xxh3_64_intdigest(canonical(list(parts))) / 2.0**64
