"""The read path: rows' byte ranges straight into the caller's buffer, each row checked against its place.

In a process that reads many rows the compiled loop does that (`row_loop.py`) and leaves to this module what it can't
read: rows of shards seen for the first time, bytes that a disk must be waited for, and whatever is wrong. Local files
are read with `preadv` (row into the batch, slot's tail into scratch), neighbouring rows by one call; what a call reads
is small enough to be hashed while it still lies in the processor's cache. No mmap: a vanished page of a network share
would be a SIGBUS, not an exception.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from xxhash import xxh3_64

from usjepa.cache.errors import DamageError, HoleError, StoreError
from usjepa.cache.reading.grace import Grace
from usjepa.cache.reading.handles import Handles, OpenFile
from usjepa.cache.reading.preads import Preads, stretches
from usjepa.cache.reading.row_loop import RowLoop, asking, compiled, layer_words
from usjepa.cache.reading.shard_table import ShardTable
from usjepa.cache.reading.trailers import Trailers
from usjepa.cache.storage.local import LocalStorage, unreadable
from usjepa.cache.store.shard import Trailer, parse_trailer, row_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.layers import Layer

CALL_NBYTES = 1 << 19
"""Bytes taken at a time, read by one call and hashed before the next: half of a usual second-level cache."""
ALONE_NBYTES = 1 << 16
"""Rows smaller than this are read by one thread: two took 1.3 times as long for rows of 100 bytes, 1.05 for 50 KB."""
FEW_ROWS = 256
"""Rows of a layer that a process reads without the compiled loop: to load numba takes 0.3 seconds, 1.3 where the loop
is to be compiled, and 140 MB, which who looks at some rows need not wait for."""
_CALL_ROWS = 512
"""Rows read by one call: preadv takes 1,024 buffers, two a row."""
_REMOTE_ROWS = 64
"""Rows that are asked of an object storage at a time, whose round trips weigh more than its bytes."""
Bytes = memoryview | bytes


class Run(NamedTuple):
    """Some rows of one shard, and where they go."""

    shard: int
    rows: Sequence[int]
    places: Sequence[int]
    """Where in the batch each row goes."""
    out: memoryview
    """Bytes of the batch's C-contiguous [B, *shape] array."""


class LayerReader:
    """Reads rows of one layer, given the table hashes of its shards. Of one process; its threads may share it."""

    def __init__(
        self,
        storage: Storage,
        layer: Layer,
        tables: Sequence[str],
        check_rows: bool = True,
        grace: Grace | None = None,
        handles: Handles | None = None,
        trailers: Trailers | None = None,
    ) -> None:
        """The layers of a store share the last three; `check_rows=False` skips the rows' checksums."""
        self.layer = layer
        self._storage = storage
        self._tables = tables
        self._digest = bytes.fromhex(layer.digest)
        self._grace = grace or Grace()
        self._handles = handles or (Handles(storage, self._grace) if isinstance(storage, LocalStorage) else None)
        self._trailers = trailers or Trailers(self._grace)
        self._check_rows = check_rows
        self._layout = layer.layout
        self._row_nbytes, self._tail_nbytes = layer.row_nbytes, layer.layout.tail_nbytes
        self._slot_nbytes = layer.layout.slot_nbytes
        self._call_rows = max(1, min(_CALL_ROWS, CALL_NBYTES // self._slot_nbytes))
        self._table = ShardTable(len(tables))
        self._words = layer_words(layer, len(tables), check_rows)
        self.remote = self._handles is None
        """Whether rows come from an object storage."""
        self.most_rows = _REMOTE_ROWS if self.remote else self._call_rows
        """Rows that are best read at a time."""
        self._preads = Preads(self.remote)
        self._rows_read = 0

    @property
    def alone(self) -> bool:
        """Whether one thread reads this layer faster than several, without the compiled loop: its rows are small, and
        lie in memory for all that is known. Threads would spend their time on handing the interpreter's lock to one
        another."""
        return self._row_nbytes < ALONE_NBYTES and not self.blind

    @property
    def blind(self) -> bool:
        """Whether nobody can tell what lies in memory, as with NFS."""
        return self._preads.blind

    @property
    def flags(self) -> int:
        """preadv2's flags for reading what lies in memory, where that can be told."""
        return self._preads.flags

    @property
    def shards_ahead(self) -> int:
        """Shards that may be asked for ahead: their files must still be open when their turn comes."""
        return self._handles.most // 2 if self._handles is not None else 0

    def where(self, shard: int) -> str:
        """Return a shard's place, for messages."""
        return f"{self._storage.url}/{self.layer.shard_name(shard)} (shard {shard})"

    def loop(self, rows: NDArray[np.int64], out: NDArray[Any]) -> RowLoop | None:
        """Return the compiled loop over a batch's rows; None where there is none, or not enough was read for it."""
        few = self._rows_read < FEW_ROWS
        if few:
            self._rows_read += len(rows)  # of threads at once, one may not be counted
        function = None if few or self.remote else compiled()
        return None if function is None else RowLoop(function, self._grace, self._words, self._table, rows, out)

    def read(self, run: Run, missed: Callable[[], None] = lambda: None) -> None:
        """Read a run's rows; once more, from a freshly opened file, when a share gave a stale handle or stale bytes.

        `missed` is called when bytes turn out not to lie in memory, before they are waited for.

        Raises:
            HoleError: a row holds no data.
            DamageError: a row's bytes are not those that were built, or its shard is missing.
            StoreError: the system refuses twice.
        """
        try:
            self._read_twice(run, missed)
        except FileNotFoundError as error:
            raise DamageError(
                f"{self.where(run.shard)}: the file is missing; row {run.rows[0]} needs it. Run verify."
            ) from error
        except OSError as error:
            raise unreadable(self.where(run.shard), error) from error

    def _read_twice(self, run: Run, missed: Callable[[], None]) -> None:
        try:
            self._read_once(run, missed)
        except (DamageError, OSError):
            self.forget(run.shard)
            self._read_once(run, missed)

    def _read_once(self, run: Run, missed: Callable[[], None]) -> None:
        if not 0 <= run.shard < len(self._tables):
            raise HoleError(f"{self._storage.url}: row {run.rows[0]} holds no data.")
        if self._handles is None:
            self._read_remote(run)
        else:
            self._read_local(self._handles, run, missed)

    def _trailer(self, shard: int, file: OpenFile | None) -> Trailer:
        key = (self.layer.name, shard)
        trailer = self._trailers.get(key)
        if trailer is None:
            length = self._layout.trailer_nbytes
            name = self.layer.shard_name(shard)
            if file is not None:
                size, data = file.size, os.pread(file.handle, length, max(0, file.size - length))
            else:
                size = self._storage.size(name) or 0
                data = self._storage.read_range(name, max(0, size - length), length)
            trailer = parse_trailer(data, size, self._layout, self._tables[shard], self.where(shard))
            self._trailers.put(key, trailer, self._table)
        return trailer

    def _offsets(self, shard: int, rows: Sequence[int], trailer: Trailer) -> list[int]:
        """Return where each row's slot begins in the file; raises HoleError where there is no row."""
        first, offset_of = shard * self.layer.rows_per_shard, trailer.offsets.item
        offsets = [offset_of(row - first) for row in rows]
        if min(offsets) < 0:
            raise HoleError(f"{self.where(shard)}: row {rows[offsets.index(-1)]} holds no data.")
        return offsets

    def _read_local(self, handles: Handles, run: Run, missed: Callable[[], None]) -> None:
        file = self._lend(handles, run.shard)
        try:
            trailer = self._trailer(run.shard, file)
            offsets = self._offsets(run.shard, run.rows, trailer)
            self._read_neighbours(file.handle, run, trailer, offsets, missed)
        finally:
            handles.give_back(file)

    def _lend(self, handles: Handles, shard: int) -> OpenFile:
        # No context manager made of a generator: one that Ctrl-C cut short would give the file back when it is
        # collected, in the middle of whatever this thread has locked by then.
        return handles.lend(self.layer.shard_name(shard), self._table, shard)

    def _read_neighbours(
        self, handle: int, run: Run, trailer: Trailer, offsets: Sequence[int], missed: Callable[[], None]
    ) -> None:
        """Read rows that follow one another in the file by one call, and check them."""
        nbytes, slot_nbytes, width = self._row_nbytes, self._slot_nbytes, self._tail_nbytes
        tails = memoryview(bytearray(width * min(len(offsets), self._call_rows)))
        start = 0
        while start < len(offsets):
            stop = self._end_of_call(offsets, start)
            buffers = []
            for i, place in enumerate(run.places[start:stop]):
                buffers += [run.out[place * nbytes : (place + 1) * nbytes], tails[i * width : (i + 1) * width]]
            rows = run.rows[start:stop]
            got = self._preads.what_is_there(handle, buffers, offsets[start])
            if got != len(rows) * slot_nbytes:
                missed()
                got = self._preads.rest(handle, buffers, offsets[start], got, len(rows) * slot_nbytes)
            if got != len(rows) * slot_nbytes:
                raise DamageError(
                    f"{self.where(run.shard)}: the file ends within row {rows[got // slot_nbytes]}: it was cut."
                )
            if self._check_rows:
                for row, data, tail in zip(rows, buffers[::2], buffers[1::2], strict=True):
                    self._check(run.shard, row, trailer, data, tail)
            start = stop

    def _end_of_call(self, offsets: Sequence[int], start: int) -> int:
        """Return the end of the rows from `start` on that follow one another in the file and fit one call."""
        stop, end = start + 1, min(len(offsets), start + self._call_rows)
        while stop < end and offsets[stop] == offsets[stop - 1] + self._slot_nbytes:
            stop += 1
        return stop

    def ask_known(self, rows: NDArray[np.int64]) -> list[int]:
        """Ask the system to fetch rows of shards that are open, without waiting; return the rows of the others.

        All by one call: beside a thread that is busy in Python every call may have to wait for the interpreter.
        """
        function = asking() if not self.remote and self._rows_read >= FEW_ROWS else None
        if function is None:
            return np.sort(rows).tolist()  # type: ignore[no-any-return]
        wanted, left = np.sort(rows), np.empty(len(rows), np.int64)
        others = self._grace.during(partial(function, self._words, self._table.columns, wanted, left))
        return wanted[left[:others]].tolist()  # type: ignore[no-any-return]

    def ask_for(self, shard: int, rows: Sequence[int]) -> None:
        """Ask the system to fetch rows, and what is needed to find them, without waiting. Nothing is promised."""
        if self._handles is None or not hasattr(os, "posix_fadvise"):
            return
        # Whatever is wrong here, the read itself meets again and tells.
        with contextlib.suppress(OSError, StoreError):
            file = self._lend(self._handles, shard)
            try:
                self._ask_for(file, shard, [row % self.layer.rows_per_shard for row in rows])
            finally:
                self._handles.give_back(file)

    def _ask_for(self, file: OpenFile, shard: int, slots: Sequence[int]) -> None:
        trailer = self._trailers.get((self.layer.name, shard))
        if trailer is None:
            # Where rows lie unless there are holes before them; the trailer, which tells, is asked for as well.
            offsets = [slot * self._slot_nbytes for slot in slots]
            length = self._layout.trailer_nbytes
            os.posix_fadvise(file.handle, max(0, file.size - length), length, os.POSIX_FADV_WILLNEED)
        else:
            offsets = [max(0, trailer.offsets.item(slot)) for slot in slots]
        for start, stop in stretches(offsets, self._slot_nbytes):
            os.posix_fadvise(file.handle, start, stop - start, os.POSIX_FADV_WILLNEED)

    def _read_remote(self, run: Run) -> None:
        shard, slot, nbytes = run.shard, self._slot_nbytes, self._row_nbytes
        trailer = self._trailer(shard, None)
        ranges = [(offset, slot) for offset in self._offsets(shard, run.rows, trailer)]
        found = self._storage.read_ranges(self.layer.shard_name(shard), ranges)
        for row, place, data in zip(run.rows, run.places, found, strict=True):
            if len(data) != slot:
                raise DamageError(f"{self.where(shard)}: row {row}: the store gave {len(data)} of {slot} bytes.")
            run.out[place * nbytes : (place + 1) * nbytes] = data[:nbytes]
            if self._check_rows:
                self._check(shard, row, trailer, data[:nbytes], data[nbytes:])

    def _check(self, shard: int, row: int, trailer: Trailer, data: Bytes, tail: Bytes) -> None:
        hasher = xxh3_64(data, row_seed(self._digest, row))
        hasher.update(tail)
        if hasher.intdigest() != trailer.hashes.item(row % self.layer.rows_per_shard):
            raise self._damaged(shard, row)

    def _damaged(self, shard: int, row: int) -> DamageError:
        return DamageError(
            f"{self.where(shard)}: row {row} is not what was built: its bytes were changed or belong elsewhere. "
            "Run `usjepa-cache verify`."
        )

    def forget(self, shard: int) -> None:
        """Drop what is known of a shard: a second look must not see the first one's stale handle or cached bytes."""
        self._trailers.drop((self.layer.name, shard))
        if self._handles is not None:
            self._handles.drop(self.layer.shard_name(shard))

    def close(self) -> None:
        """Close idle file handles."""
        if self._handles is not None:
            self._handles.close()
