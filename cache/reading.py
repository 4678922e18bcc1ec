"""The read path: rows' byte ranges straight into the caller's buffer, each row checked against its place.

Local files are read with `preadv` (row into the batch, slot's tail into scratch), neighbouring rows by one call;
preadv and xxh3 both release the GIL. What a call reads is small enough to be hashed while it still lies in the
processor's cache. No mmap: a vanished page of a network share would be a SIGBUS, not an exception.
"""

from __future__ import annotations

import contextlib
import os
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64

from usjepa.cache.errors import DamageError, HoleError, StoreError
from usjepa.cache.handles import Handles, OpenFile
from usjepa.cache.preads import Preads, stretches
from usjepa.cache.shard import Trailer, parse_trailer, row_seed
from usjepa.cache.storage import LocalStorage, Storage, unreadable
from usjepa.cache.trailers import Trailers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from usjepa.cache.layers import Layer
    from usjepa.cache.pieces import Pieces

CALL_NBYTES = 1 << 19
"""Bytes taken at a time, read by one call and hashed before the next: half of a usual second-level cache."""
ALONE_NBYTES = 1 << 16
"""Rows smaller than this are read by one thread: two took 1.3 times as long for rows of 100 bytes, 1.05 for 50 KB."""
_PIECES = 4
"""Pieces that a batch is cut into for each thread, at least: few enough that taking them costs little, enough that
threads end together."""
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
        remote = self._handles is None
        self._most_rows, self._pieces_a_thread = (_REMOTE_ROWS, 1) if remote else (self._call_rows, _PIECES)
        self._preads = Preads(remote)

    @property
    def alone(self) -> bool:
        """Whether one thread reads this layer faster than several: its rows are small, and lie in memory for all that
        is known. Threads would spend their time on handing the interpreter's lock to one another."""
        return self._row_nbytes < ALONE_NBYTES and not self.blind

    @property
    def blind(self) -> bool:
        """Whether nobody can tell what lies in memory, as with NFS."""
        return self._preads.blind

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

    def piece_rows(self, rows: int, threads: int) -> int:
        """Return how many of a batch's rows a thread takes at a time."""
        if threads == 1:
            return self._most_rows
        return max(1, min(self._most_rows, -(-rows // (threads * self._pieces_a_thread))))

    def read_pieces(self, pieces: Pieces, number: int, take: Callable[[], int], missed: Callable[[], None]) -> int:
        """Read a layer's pieces from `number` on, whichever `take` gives, until none is left; return the last number.

        Raises: see `read`.
        """
        if self._handles is not None:
            return self._read_tightly(pieces, number, take, missed)
        while number < pieces.end:
            for run in pieces.runs(pieces.places(number)):
                self.read(run)
            number = take()
        return number

    def _read_tightly(self, pieces: Pieces, number: int, take: Callable[[], int], missed: Callable[[], None]) -> int:
        """Read pieces row by row; neighbours, and whatever is not as it should be, by `read`, which looks again.

        With as little Python as can be: threads run one at a time while in it, and the rows that pass through the
        processor's cache have driven it out, so that every line is waited for again.
        """
        rows, out, end = pieces.rows, pieces.out, pieces.end
        nbytes, slot_nbytes, per_shard = self._row_nbytes, self._slot_nbytes, self.layer.rows_per_shard
        digest, checked, preadv, flags = self._digest, self._check_rows, os.preadv, self._preads.flags
        tail = memoryview(bytearray(self._tail_nbytes))
        known = -1
        while number < end:
            places = pieces.places(number)
            if len(places) > 1 and any(rows[b] - rows[a] == 1 for a, b in pairwise(places)):
                for run in pieces.runs(places):
                    self.read(run, missed)
                places = ()
            for place in places:
                row = rows[place]
                shard, slot = divmod(row, per_shard)
                if shard != known:
                    file, trailer = pieces.files.get(shard), self._trailers.get((self.layer.name, shard))
                    if file is not None and trailer is not None:
                        known, handle = shard, file.handle
                        offset_of, hash_of = trailer.offsets.item, trailer.hashes.item
                data = out[place * nbytes : (place + 1) * nbytes]
                offset = (
                    offset_of(slot) if shard == known else -1
                )  # nor may preadv see a hole's -1: "from where you are"
                try:
                    good = offset >= 0 and preadv(handle, (data, tail), offset, flags) == slot_nbytes
                except OSError:
                    good = False
                if good and checked:
                    hasher = xxh3_64(data, row_seed(digest, row))
                    hasher.update(tail)
                    good = hasher.intdigest() == hash_of(slot)
                if not good:
                    self.read(Run(shard, (row,), (place,), out, pieces.files.get(shard)), missed)
                    flags = self._preads.flags
            number = take()
        return number

    def read(self, run: Run, missed: Callable[[], None] = lambda: None) -> None:
        """Read a run's rows; once more, from a freshly opened file, when a share gave a stale handle or stale bytes.

        `missed` is called when bytes turn out not to lie in memory, before they are waited for.

        Raises:
            HoleError: a row holds no data.
            DamageError: a row's bytes are not those that were built, or its shard is missing.
            StoreError: the system refuses twice.
        """
        try:
            self._read_once(run, missed)
            return
        except (DamageError, OSError):
            self.forget(run.shard)
        try:
            self._read_once(run._replace(file=None), missed)
        except FileNotFoundError as error:
            raise DamageError(
                f"{self.where(run.shard)}: the file is missing; row {run.rows[0]} needs it. Run verify."
            ) from error
        except OSError as error:
            raise unreadable(self.where(run.shard), error) from error

    def _read_once(self, run: Run, missed: Callable[[], None]) -> None:
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
            self._read_neighbours(file.handle, run, trailer, offsets, missed)
        finally:
            if file is not run.file:
                handles.give_back(file)

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
                for start, stop in stretches(offsets, self._slot_nbytes):
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
