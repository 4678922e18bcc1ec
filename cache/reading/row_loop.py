"""A batch's rows read and checked by one call, without a turn of the interpreter's lock a row.

preadv and xxh3 let go of the lock, but the thread that made the call needs it again to go on: four turns a row, and
up to five milliseconds each beside a thread that is busy in Python, as training loops are. So the loop over a batch's
rows is compiled. Rows that are not as they should be, or not in memory, it leaves to `LayerReader.read`, which waits
for the disk, looks again and says what is wrong.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache, partial
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import _xxhash  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.reading.grace import Grace
    from usjepa.cache.reading.shard_table import ShardTable
    from usjepa.cache.store.layers import Layer

_PREAD, _ADVISE = "preadv2", "posix_fadvise"
_XXHASH = (
    ("XXH3_createState",),
    ("XXH3_freeState",),
    ("XXH3_64bits_reset_withSeed",),
    ("XXH3_64bits_update_dispatch", "XXH3_64bits_update"),
    ("XXH3_64bits_digest",),
    ("XXH3_64bits",),
)
"""Functions of xxHash that the loop calls, as python-xxhash carries or links to them. Of two names the first that is
there: `_dispatch` takes the widest instructions that the processor has."""


class RowLoop:
    """One layer's rows of one batch, shared by the threads that read them."""

    def __init__(
        self,
        compiled: Callable[..., int],
        grace: Grace,
        layer: NDArray[np.int64],
        table: ShardTable,
        rows: NDArray[np.int64],
        out: NDArray[Any],
    ) -> None:
        """Prepare a batch: [n] row numbers of a layer (`layer_words`), to be read into `out`, [n, ...]."""
        self._compiled, self._grace = compiled, grace
        self._counter = np.zeros(1, np.int64)
        self._rows = rows
        self._arguments = (layer, table.columns, self._counter, rows, out.__array_interface__["data"][0])

    def run(self, flags: int) -> int:
        """Read rows until all are taken; return -1, or the place of one that is for `LayerReader.read`.

        `flags` are preadv2's.
        """
        return self._grace.during(partial(self._compiled, *self._arguments, flags))

    def stop(self) -> None:
        """Leave the rows not begun to nobody."""
        self._counter[0] = len(self._rows)


def layer_words(layer: Layer, shards: int, checked: bool) -> NDArray[np.int64]:
    """Return what the loop must know of a layer, in the order in which it takes it."""
    layout, digest = layer.layout, np.frombuffer(bytes.fromhex(layer.digest), "<i8")
    numbers = (layer.row_nbytes, layout.slot_nbytes, layer.rows_per_shard, shards * layer.rows_per_shard, checked)
    return np.array([*numbers, *digest], np.int64)


@lru_cache(maxsize=1)
def compiled() -> Callable[..., int] | None:
    """Return the compiled loop, None where it can't be had: not on Linux, or xxHash does not show its functions."""
    calls = addresses()
    return None if calls is None else partial(machine_code(), calls)


@lru_cache(maxsize=1)
def asking() -> Callable[..., int] | None:
    """Return the compiled loop that asks the system for rows ahead of time, None where it can't be had."""
    address = _address(ctypes.CDLL(None), (_ADVISE,)) if addresses() is not None else 0
    return partial(asking_machine_code(), address, os.POSIX_FADV_WILLNEED) if address else None


@lru_cache(maxsize=1)
def machine_code() -> Callable[..., int]:
    """Return the loop of `compiled.py`, which takes the addresses of the functions that it calls first."""
    from usjepa.cache.reading.compiled import compile_rows  # numba takes a quarter of a second, and not all need it

    return _kept(compile_rows)


@lru_cache(maxsize=1)
def asking_machine_code() -> Callable[..., int]:
    """Return the loop that asks, which takes the address of posix_fadvise first."""
    from usjepa.cache.reading.compiled import compile_asking

    return _kept(compile_asking)


def _kept(compile_loop: Callable[[bool], Callable[..., int]]) -> Callable[..., int]:
    try:
        return compile_loop(True)
    except (OSError, RuntimeError, EOFError, UnpicklingError):
        # No place to keep it, no room there, or what is kept was cut short: compiled for this process alone.
        return compile_loop(False)


def addresses() -> NDArray[np.int64] | None:
    """Return the addresses of preadv2 and `_XXHASH`, None where one is lacking or numbers are passed otherwise."""
    if not hasattr(os, "RWF_NOWAIT") or sys.byteorder != "little" or sys.maxsize < 2**32:
        return None
    xxhash = ctypes.CDLL(_xxhash.__file__)
    found = [_address(ctypes.CDLL(None), (_PREAD,)), *(_address(xxhash, names) for names in _XXHASH)]
    return np.array(found, np.int64) if all(found) else None


def _address(library: ctypes.CDLL, names: Sequence[str]) -> int:
    """Return the address of the first function that a library has, 0 where it has none."""
    for name in names:
        function = getattr(library, name, None)
        if function is not None:
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    return 0
