"""Read batches of rows in several layers by the threads of one process.

Shards that are not open yet are opened first, in two steps, so that a disk has all requests of a step at once. Then the
threads take pieces of the batch, the largest rows first, whoever is free the next one. An object storage is asked for
all of a batch at once, by `remote.py`.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import DamageError
from usjepa.cache.places.runs import Runs
from usjepa.cache.reading.layer_reader import LayerRows, ReaderT
from usjepa.cache.reading.local import LocalReader
from usjepa.cache.reading.remote import RemoteReader, read_together
from usjepa.cache.reading.workers import Workers
from usjepa.cache.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.reading.layer_reader import LayerReader, ReadPlan
    from usjepa.cache.reading.open_shards import OpenShard
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.layers import Layer

_SHARED_NBYTES = 1 << 20
"""Bytes of a batch from which more than one thread reads it from a disk: to wake one takes 50 us."""
_PIECE_NBYTES = 1 << 18
"""Bytes that a thread takes at a time at least: few pieces of small rows, whose threads would hand the interpreter's
lock to and fro, and a single large row, so that threads end together."""
_WAITING_THREADS = 8
"""Threads that share a batch where two or more are asked for and they mostly wait: see `workers.py`."""
_PINNED_SHARE = 4
"""A batch pins at most one in so many of the shards that may stay open, or is read in parts: batches of several
threads then fit together, and none pins what it does not read soon."""


_EVERY = Runs.of(np.zeros(1, np.int64), np.full(1, 1 << 48))


class BatchReader:
    """Reads batches of one store in one process; its threads may share it."""

    def __init__(
        self,
        storage: Storage,
        layers: Iterable[tuple[Layer, Sequence[str]]],
        threads: int,
        check_rows: bool = True,
        existing: Runs = _EVERY,
    ) -> None:
        """`layers` are those that can be read, each with the table hashes of its shards.

        Where the first rows of a shard in a bucket lie is guessed from which rows are `existing`.
        """
        self._existing = existing
        self._storage, self._local, self._remote = storage, dict[str, LocalReader](), dict[str, RemoteReader]()
        for layer, tables in layers:
            if isinstance(storage, LocalStorage):
                self._local[layer.name] = LocalReader(storage, layer, tables, check_rows)
            else:
                self._remote[layer.name] = RemoteReader(storage, layer, tables, check_rows)
        self._readers: dict[str, LayerReader] = {**self._local, **self._remote}
        shared = bool(self._local) and threads > 1
        self._workers = Workers(threads - 1 if shared else 0, max(0, _WAITING_THREADS - threads) if shared else 0)

    def read(self, plan: ReadPlan, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Read the rows of a plan into an array [>= B, *shape] of each layer, largest rows first.

        Raises:
            HoleError: a row holds no data.
            DamageError: a row's bytes are not those that were built, or its shard is missing.
            StoreError: the storage refuses.
        """
        readers = [self._readers[name] for name in arrays]
        most = max(1, min(reader.open_shards.most for reader in readers) // _PINNED_SHARE)
        for part in plan.parts(most):
            if self._local:
                _Part(_rows_of(self._local, part, arrays)).read(self._workers)
            else:
                read_together(self._storage, _rows_of(self._remote, part, arrays), self._existing)
        for reader in readers:  # what other threads let go of while this batch pinned it
            reader.open_shards.close_unused()

    def close(self) -> None:
        """Close the shards that no thread is reading, and end the threads."""
        for reader in self._readers.values():
            reader.open_shards.close()
        self._workers.close()


def _rows_of(
    readers: Mapping[str, ReaderT], plan: ReadPlan, arrays: Mapping[str, NDArray[Any]]
) -> list[LayerRows[ReaderT]]:
    return [LayerRows(readers[name], plan, array) for name, array in arrays.items()]


@lru_cache(maxsize=64)  # nearly all batches are alike, and this would take 50 us of each
def _pieces(sizes: tuple[tuple[int, int], ...], shares: int, least: int) -> tuple[tuple[int, int, int], ...]:
    """Cut layers of (rows, bytes of a row) into (layer, start, stop), each a share of what is left, of `least` bytes.

    Large pieces, which cost little to take, come first, then small ones, so that threads end together.
    """
    pieces, nbytes = [], sum(rows * slot_nbytes for rows, slot_nbytes in sizes)
    for layer, (rows, slot_nbytes) in enumerate(sizes):
        stop = 0
        while (start := stop) < rows:
            stop = min(rows, start + max(1, nbytes // shares // slot_nbytes, least // slot_nbytes))
            nbytes -= (stop - start) * slot_nbytes
            pieces.append((layer, start, stop))
    return tuple(pieces)


class _Part:
    """Rows of a batch, in files, whose shards are pinned together."""

    def __init__(self, layers: Sequence[LayerRows[LocalReader]]) -> None:
        self._layers = layers

    def read(self, workers: Workers) -> None:
        """Open what is not open, then read."""
        self._open(workers)
        if any(rows.reader.blind for rows in self._layers):
            self._ask()
        nbytes = sum(rows.nbytes for rows in self._layers)
        sizes = tuple((len(rows.plan.rows), rows.reader.layout.slot_nbytes) for rows in self._layers)
        pieces = _pieces(sizes, 2 * workers.threads, _PIECE_NBYTES)

        def read(number: int) -> None:
            layer, start, stop = pieces[number]
            rows = self._layers[layer]
            for left in rows.reader.read(rows, start, stop, self._ask):
                rows.reader.read_slowly(rows, left)

        workers.run(len(pieces), read, alone=nbytes < _SHARED_NBYTES)

    def _open(self, workers: Workers) -> None:
        """Open shards; one that can't be opened is left to the slow way, which raises the reason."""
        missing = [(rows, i) for rows in self._layers for i, shard in enumerate(rows.shards) if shard is None]
        opened: list[OpenShard | None] = [None] * len(missing)

        def begin(number: int) -> None:
            rows, i = missing[number]
            with contextlib.suppress(OSError, DamageError):
                opened[number] = rows.reader.begin_opening(rows.plan.shards[i])

        def finish(number: int) -> None:
            (rows, i), shard = missing[number], opened[number]
            if shard is not None:
                with contextlib.suppress(OSError, DamageError):
                    rows.shards[i] = rows.reader.finish_opening(rows.plan.shards[i], shard)

        for step in (begin, finish) if missing else ():
            workers.run(len(missing), step)

    def _ask(self) -> None:
        """Ask the system, once, for every row; from then on threads wait for the disk."""
        if not self._layers[0].waits:  # two threads that come here at once ask twice, which does no harm
            for rows in self._layers:
                rows.waits = True
            for rows in self._layers:
                rows.reader.ask_for(rows)
