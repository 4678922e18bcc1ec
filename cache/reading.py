"""The read path: rows' byte ranges straight into the caller's buffer, each row checked against its place.

Local files are read with `preadv` (row into the batch, slot's tail into scratch), neighbouring rows by one call;
preadv and xxh3 both release the GIL. What a call reads is small enough to be hashed while it still lies in the
processor's cache. No mmap: a vanished page of a network share would be a
SIGBUS, not an exception.
"""

from __future__ import annotations

import contextlib
import errno
import os
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64

from usjepa.cache.errors import DamageError, HoleError, StoreError
from usjepa.cache.handles import Handles, OpenFile
from usjepa.cache.shard import Trailer, parse_trailer, row_seed
from usjepa.cache.storage import LocalStorage, Storage
from usjepa.cache.trailers import Trailers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from usjepa.cache.layers import Layer

CALL_NBYTES = 1 << 19
"""Bytes read by one call and hashed before the next: half of a usual second-level cache."""
RUN_NBYTES = 5 << 18
"""Bytes that a thread takes at a time: enough that taking costs little, few enough that threads end together."""
_CALL_ROWS = 512
"""Rows read by one call: preadv takes 1,024 buffers, two a row."""
_NOT_WAITING: int = getattr(os, "RWF_NOWAIT", 0)
"""preadv's flag: give what lies in memory and no more (Linux)."""
_CANT_TELL = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
"""How file systems and kernels say that they don't know that flag."""
_REMOTE_ROWS = 64
"""Rows that are asked of an object storage at a time, whose round trips weigh more than its bytes."""
Bytes = memoryview | bytes


class Run(NamedTuple):
    """Some rows of one shard, and where they go: what a thread takes at a time."""

    shard: int
    rows: Sequence[int]
    places: Sequence[int]
    """Where in the batch each row goes."""
    out: memoryview
    """Bytes of the batch's C-contiguous [B, *shape] array."""
    file: OpenFile | None = None
    """The shard's file where it is lent already."""


class LayerReader:
    """Reads rows of one layer, given the table hashes of its shards. Of one process; its threads may share it."""

    def __init__(
        self,
        storage: Storage,
        layer: Layer,
        tables: Sequence[str],
        handles: Handles | None = None,
        trailers: Trailers | None = None,
        check_rows: bool = True,
    ) -> None:
        """The layers of a store share `handles` and `trailers`; `check_rows=False` skips the rows' checksums."""
        self.layer = layer
        self._storage = storage
        self._tables = tables
        self._digest = bytes.fromhex(layer.digest)
        self._handles = handles or (Handles(storage) if isinstance(storage, LocalStorage) else None)
        self._trailers = trailers or Trailers()
        self._check_rows = check_rows
        self._layout = layer.layout
        self._row_nbytes, self._tail_nbytes = layer.row_nbytes, layer.layout.tail_nbytes
        self._slot_nbytes = layer.layout.slot_nbytes
        self._call_rows = max(1, min(_CALL_ROWS, CALL_NBYTES // self._slot_nbytes))
        few = max(1, min(_CALL_ROWS, RUN_NBYTES // self._slot_nbytes))
        self.run_rows = few if self._handles is not None else _REMOTE_ROWS
        self.blind = self._handles is None or not _NOT_WAITING
        """Whether nobody can tell what lies in memory, as with NFS."""

    @property
    def shards_ahead(self) -> int:
        """Shards that may be asked for ahead: their files must still be open when their turn comes."""
        return self._handles.most // 2 if self._handles is not None else 0

    def where(self, shard: int) -> str:
        """Return a shard's place, for messages."""
        return f"{self._storage.url}/{self.layer.shard_name(shard)} (shard {shard})"

    def lend_open(self, shards: Iterable[int]) -> dict[int, OpenFile]:
        """Return the files of those shards that are open already, by shard: one lock for all. To be given back."""
        if self._handles is None:
            return {}
        names = {self.layer.shard_name(shard): shard for shard in shards}
        return {names[name]: file for name, file in self._handles.lend_open(names).items()}

    def give_back(self, files: Iterable[OpenFile]) -> None:
        """Take lent files back."""
        if self._handles is not None:
            self._handles.give_back(*files)

    def read(self, run: Run, missed: Callable[[], None] = lambda: None) -> None:
        """Read a run's rows into its batch.

        `missed` is called when bytes turn out not to lie in memory, before they are waited for.

        Raises:
            HoleError: a row holds no data.
            DamageError: a row's bytes are not those that were built, or its shard is missing.
        """
        try:
            if self._handles is None:
                self._read_remote(run)
            else:
                self._read_local(self._handles, run, missed)
        except FileNotFoundError as error:
            raise DamageError(
                f"{self.where(run.shard)}: the file is missing; row {run.rows[0]} needs it. Run verify."
            ) from error

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
            self._trailers.put(key, trailer)
        return trailer

    def _offsets(self, shard: int, rows: Sequence[int], trailer: Trailer) -> list[int]:
        """Return where each row's slot begins in the file; raises HoleError where there is no row."""
        first, offset_of = shard * self.layer.rows_per_shard, trailer.offsets.item
        offsets = [offset_of(row - first) for row in rows]
        if min(offsets) < 0:
            raise HoleError(f"{self.where(shard)}: row {rows[offsets.index(-1)]} holds no data.")
        return offsets

    def _read_local(self, handles: Handles, run: Run, missed: Callable[[], None]) -> None:
        file = run.file or handles.lend(self.layer.shard_name(run.shard))
        try:
            trailer = self._trailer(run.shard, file)
            offsets = self._offsets(run.shard, run.rows, trailer)
            slot_nbytes = self._slot_nbytes
            if self._call_rows > 1 and any(b - a == slot_nbytes for a, b in pairwise(offsets)):
                self._read_neighbours(file.handle, run, trailer, offsets, missed)
            else:
                self._read_each(file.handle, run, trailer, offsets, missed)
        finally:
            if file is not run.file:
                handles.give_back(file)

    def _read_each(
        self, handle: int, run: Run, trailer: Trailer, offsets: Sequence[int], missed: Callable[[], None]
    ) -> None:
        """Read and check row by row.

        With as little Python as can be: threads run one at a time while in it, and the rows that pass through the
        processor's cache have driven it out, so that every line is waited for again.
        """
        nbytes, slot_nbytes, out, digest = self._row_nbytes, self._slot_nbytes, run.out, self._digest
        checked, first, hash_of = self._check_rows, run.shard * self.layer.rows_per_shard, trailer.hashes.item
        tail = memoryview(bytearray(self._tail_nbytes))
        for row, place, offset in zip(run.rows, run.places, offsets, strict=True):
            data = out[place * nbytes : (place + 1) * nbytes]
            got = self._read_what_is_there(handle, (data, tail), offset)
            if got != slot_nbytes:
                missed()
                self._read_rest(handle, offset, got, (data, tail), run.shard, (row,))
            if checked:
                hasher = xxh3_64(data, row_seed(digest, row))
                hasher.update(tail)
                if hasher.intdigest() != hash_of(row - first):
                    raise self._damaged(run.shard, row)

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
            got = self._read_what_is_there(handle, buffers, offsets[start])
            if got != len(rows) * slot_nbytes:
                missed()
                self._read_rest(handle, offsets[start], got, buffers, run.shard, rows)
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

    def _read_what_is_there(self, handle: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Read as far as the bytes lie in memory, without waiting for a disk; return how many came."""
        if self.blind:
            return os.preadv(handle, buffers, offset)
        try:
            return os.preadv(handle, buffers, offset, _NOT_WAITING)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in _CANT_TELL:
                raise
            self.blind = True
            return 0

    def _read_rest(
        self, handle: int, offset: int, got: int, buffers: Sequence[memoryview], shard: int, rows: Sequence[int]
    ) -> None:
        """Go on with a read that a signal or a network share cut short after `got` bytes."""
        wanted = len(rows) * self._slot_nbytes
        while got < wanted:
            more = os.preadv(handle, _behind(buffers, got), offset + got)
            if not more:
                raise DamageError(
                    f"{self.where(shard)}: the file ends within row {rows[got // self._slot_nbytes]}: it was cut."
                )
            got += more

    def ask_for(self, shard: int, rows: Sequence[int]) -> None:
        """Ask the system to fetch rows, and what is needed to find them, without waiting. Nothing is promised."""
        if self._handles is None or not hasattr(os, "posix_fadvise"):
            return
        # Whatever is wrong here, the read itself meets again and tells.
        with contextlib.suppress(OSError, StoreError):
            file = self._handles.lend(self.layer.shard_name(shard))
            try:
                trailer = self._trailers.get((self.layer.name, shard))
                slots = [row % self.layer.rows_per_shard for row in rows]
                if trailer is None:
                    # Where rows lie unless there are holes before them; the trailer, which tells, is asked for as well.
                    offsets = [slot * self._slot_nbytes for slot in slots]
                    length = self._layout.trailer_nbytes
                    os.posix_fadvise(file.handle, max(0, file.size - length), length, os.POSIX_FADV_WILLNEED)
                else:
                    offsets = [max(0, trailer.offsets.item(slot)) for slot in slots]
                for start, stop in _stretches(offsets, self._slot_nbytes):
                    os.posix_fadvise(file.handle, start, stop - start, os.POSIX_FADV_WILLNEED)
            finally:
                self._handles.give_back(file)

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


def _behind(buffers: Sequence[memoryview], done: int) -> list[memoryview]:
    """Return what is left of buffers when their first `done` bytes are filled."""
    left = []
    for buffer in buffers:
        skipped = min(done, len(buffer))
        done -= skipped
        if skipped < len(buffer):
            left.append(buffer[skipped:])
    return left


def _stretches(offsets: Sequence[int], nbytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) in bytes of pieces of `nbytes` each, those that follow one another without a gap as one."""
    start = stop = offsets[0]
    for offset in offsets:
        if offset != stop:
            yield start, stop
            start = offset
        stop = offset + nbytes
    yield start, stop
