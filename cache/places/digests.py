"""Stand for names by their hashes, in arrays that are sorted and searched.

A name of 44 letters is an object of 93 bytes. Its xxh3-128 takes 16, and of five million names two have the same one
once in 10^25 stores. What may be mistaken once in a million stores of that size, as the group of a source, is told by
64 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Digests = NDArray[np.bytes_]

DIGEST = np.dtype("S16")
"""Of one digest; NumPy compares such by all 16 bytes."""


def digests(names: Iterable[str]) -> Digests:
    """Return the xxh3-128 of each name, [n] of 16 bytes."""
    digest = xxhash.xxh3_128_digest
    return np.frombuffer(b"".join([digest(name.encode(errors="surrogatepass")) for name in names]), DIGEST)


def short_hashes(names: Iterable[str]) -> NDArray[np.uint64]:
    """Return the xxh3-64 of each name, uint64 [n]."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(name.encode(errors="surrogatepass")) for name in names), np.uint64)


def order_of(values_n: NDArray[Any]) -> NDArray[np.int32]:
    """Return the index that sorts values, equal ones in their order, int32 [n]."""
    return np.argsort(values_n, kind="stable").astype(np.int32)


def last_place(ordered_n: NDArray[Any], asked_q: NDArray[Any]) -> NDArray[np.int64]:
    """Return the last place of each value among ascending ones, -1 where it is not there, int64 [q].

    `np.searchsorted` with a `sorter` would copy all of that, even for one value.
    """
    if not len(ordered_n):
        return np.full(len(asked_q), -1, np.int64)
    place = np.searchsorted(ordered_n, asked_q, "right") - 1
    place[ordered_n[place] != asked_q] = -1  # one of -1 stays so, or is told apart from the last of all
    return place


def among(values_q: NDArray[Any], others_m: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which values are among others, bool [q]; `np.isin` would hold both of them several times."""
    if not len(others_m):
        return np.zeros(len(values_q), np.bool_)
    ordered = np.sort(others_m)
    place = np.minimum(np.searchsorted(ordered, values_q), len(ordered) - 1)
    found: NDArray[np.bool_] = ordered[place] == values_q
    return found
