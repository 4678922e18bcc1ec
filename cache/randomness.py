"""Counter-based randomness: a generator that is a pure function of the things that may change the answer.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) gives an independent stream a key, so a
frame or a view is the same whatever the order, worker or machine it is drawn on. No state is shared or global.
"""

from __future__ import annotations

import numpy as np
import xxhash

from usjepa.cache.identity import canonical


def generator(*parts: str | int) -> np.random.Generator:
    """Return the generator whose 128-bit key is the xxh3-128 of the parts; begin with the name of the use."""
    return np.random.Generator(np.random.Philox(key=xxhash.xxh3_128_intdigest(canonical(list(parts)))))


def fraction(*parts: str | int) -> float:
    """Return a number in [0, 1) that is a pure function of the parts: a patient's does not depend on the others."""
    return xxhash.xxh3_64_intdigest(canonical(list(parts))) / 2.0**64
