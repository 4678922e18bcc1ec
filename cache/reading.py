"""The read path: rows' byte ranges straight into the caller's buffer, each row checked against its place.

Local files are read with `preadv` (row into the batch, slot's tail into scratch) from a few threads; preadv and
xxh3 both release the GIL. No mmap: a vanished page of a network share would be a SIGBUS, not an exception.
File handles belong to the process that opened them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.errors import DamageError, HoleError
from usjepa.cache.shard import Trailer, parse_trailer, row_seed
from usjepa.cache.storage import LocalStorage, Storage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.layers import Layer

_OPEN_FILES = 64
_KEPT_TRAILERS = 4096


@dataclass
class _File:
    """An open shard file and how many threads are reading from it."""

    handle: int
    users: int = 0
    size: int = field(default=0)


class Handles:
    """A bounded set of open files, of one process; a file in use is never closed under its reader."""

    def __init__(self, storage: LocalStorage) -> None:
        self._storage = storage
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[_File]:
        """Lend an open file for the length of a `with` block."""
        with self._lock:
            file = self._files.get(name)
            if file is None:
                handle = self._storage.open(name)
                file = self._files[name] = _File(handle, size=os.fstat(handle).st_size)
            self._files.move_to_end(name)
            file.users += 1
        try:
            yield file
        finally:
            with self._lock:
                file.users -= 1
                self._close_idle(_OPEN_FILES)

    def _close_idle(self, keep: int) -> None:
        for name in [name for name, file in self._files.items() if not file.users][: max(0, len(self._files) - keep)]:
            os.close(self._files.pop(name).handle)

    def drop(self, name: str) -> None:
        """Forget a file and what the system cached of it, so that the next read asks the disk or share again."""
        with self._lock:
            file = self._files.get(name)
            if file is not None and not file.users:
                if hasattr(os, "posix_fadvise"):
                    with contextlib.suppress(OSError):  # a stale handle; it is closed all the same
                        os.posix_fadvise(file.handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(self._files.pop(name).handle)

    def close(self) -> None:
        """Close every idle file."""
        with self._lock:
            self._close_idle(0)


class LayerReader:
    """Reads rows of one layer, given the table hashes of its shards."""

    def __init__(self, storage: Storage, layer: Layer, tables: Sequence[str]) -> None:
        self.layer = layer
        self._storage = storage
        self._tables = tables
        self._digest = bytes.fromhex(layer.digest)
        self._handles = Handles(storage) if isinstance(storage, LocalStorage) else None
        self._trailers: OrderedDict[int, Trailer] = OrderedDict()
        self._lock = threading.Lock()

    def where(self, shard: int) -> str:
        """Return a shard's place, for messages."""
        return f"{self._storage.url}/{self.layer.shard_name(shard)} (shard {shard})"

    def read_shard_rows(self, shard: int, rows: Sequence[int], places: Sequence[int], out: memoryview) -> None:
        """Read rows of one shard into `out` (bytes of a C-contiguous [B, *shape] array) at the given places.

        Raises:
            HoleError: a row holds no data.
            DamageError: a row's bytes are not those that were built, or its shard is missing.
        """
        try:
            if self._handles is None:
                self._read_remote(shard, rows, places, out)
                return
            with self._handles.use(self.layer.shard_name(shard)) as file:
                trailer = self._trailer(shard, file)
                for row, place in zip(rows, places, strict=True):
                    self._read_local(shard, row, file.handle, trailer, self._slice(out, place))
        except FileNotFoundError as error:
            raise DamageError(
                f"{self.where(shard)}: the file is missing; row {rows[0]} needs it. Run verify."
            ) from error

    def _slice(self, out: memoryview, place: int) -> memoryview:
        nbytes = self.layer.row_nbytes
        return out[place * nbytes : (place + 1) * nbytes]

    def _trailer(self, shard: int, file: _File | None) -> Trailer:
        with self._lock:
            trailer = self._trailers.get(shard)
        if trailer is None:
            length = self.layer.layout.trailer_nbytes
            name = self.layer.shard_name(shard)
            if file is not None:
                size, data = file.size, os.pread(file.handle, length, max(0, file.size - length))
            else:
                size = self._storage.size(name) or 0
                data = self._storage.read_range(name, max(0, size - length), length)
            trailer = parse_trailer(data, size, self.layer.layout, self._tables[shard], self.where(shard))
            with self._lock:
                self._trailers[shard] = trailer
                while len(self._trailers) > _KEPT_TRAILERS:
                    self._trailers.popitem(last=False)
        return trailer

    def _offset(self, shard: int, row: int, trailer: Trailer) -> int:
        offset = int(trailer.offsets[row % self.layer.rows_per_shard])
        if offset < 0:
            raise HoleError(f"{self.where(shard)}: row {row} holds no data.")
        return offset

    def _read_local(self, shard: int, row: int, handle: int, trailer: Trailer, into: memoryview) -> None:
        tail = bytearray(self.layer.layout.tail_nbytes)
        offset = self._offset(shard, row, trailer)
        got = os.preadv(handle, [into, tail], offset)
        while got < len(into) + len(tail):  # a signal or a network share may cut a read short
            rest: list[memoryview | bytearray]
            rest = [into[got:], tail] if got < len(into) else [memoryview(tail)[got - len(into) :]]
            more = os.preadv(handle, rest, offset + got)
            if not more:
                raise DamageError(f"{self.where(shard)}: the file ends within row {row}: it was cut.")
            got += more
        self._check(shard, row, trailer, into, tail)

    def _read_remote(self, shard: int, rows: Sequence[int], places: Sequence[int], out: memoryview) -> None:
        trailer = self._trailer(shard, None)
        slot, nbytes = self.layer.layout.slot_nbytes, self.layer.row_nbytes
        ranges = [(self._offset(shard, row, trailer), slot) for row in rows]
        for row, place, data in zip(
            rows, places, self._storage.read_ranges(self.layer.shard_name(shard), ranges), strict=True
        ):
            if len(data) != slot:
                raise DamageError(f"{self.where(shard)}: row {row}: the store gave {len(data)} of {slot} bytes.")
            self._slice(out, place)[:] = data[:nbytes]
            self._check(shard, row, trailer, data[:nbytes], data[nbytes:])

    def _check(self, shard: int, row: int, trailer: Trailer, data: memoryview | bytes, tail: bytearray | bytes) -> None:
        hasher = xxhash.xxh3_64(seed=row_seed(self._digest, row))
        hasher.update(data)
        hasher.update(tail)
        if hasher.intdigest() != int(trailer.hashes[row % self.layer.rows_per_shard]):
            raise DamageError(
                f"{self.where(shard)}: row {row} is not what was built: its bytes were changed or belong elsewhere. "
                "Run `usjepa-cache verify`."
            )

    def forget(self, shard: int) -> None:
        """Drop what is known of a shard: a second look must not see the first one's stale handle or cached bytes."""
        with self._lock:
            self._trailers.pop(shard, None)
        if self._handles is not None:
            self._handles.drop(self.layer.shard_name(shard))

    def close(self) -> None:
        """Close idle file handles."""
        if self._handles is not None:
            self._handles.close()


def by_shard(rows: NDArray[np.int64], rows_per_shard: int) -> list[tuple[int, list[int], list[int]]]:
    """Group rows by shard: (shard, rows, places in the batch), rows ascending within each."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    shards = ordered // rows_per_shard
    cuts = np.flatnonzero(np.diff(shards)) + 1
    return [
        (int(part[0]) // rows_per_shard, part.tolist(), places.tolist())
        for part, places in zip(np.split(ordered, cuts), np.split(order, cuts), strict=True)
        if len(part)
    ]
