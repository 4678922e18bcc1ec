"""Read and check rows in an object storage: all of a batch at once."""

from __future__ import annotations

import contextlib
from itertools import groupby
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import DamageError
from usjepa.cache.reading.layer_reader import LayerReader, LayerRows
from usjepa.cache.reading.open_shards import OpenShard
from usjepa.cache.storage.protocol import Piece
from usjepa.cache.store.row_check import row_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usjepa.cache.storage.protocol import Found, Storage
    from usjepa.cache.store.layers import Layer

_PIECE_NBYTES = 8 << 20
"""Bytes of neighbours that are fetched by one request: several of them together are faster than one that is long."""


class RemoteReader(LayerReader):
    """Reads rows of one layer from objects."""

    def __init__(self, storage: Storage, layer: Layer, tables: Sequence[str], check_rows: bool = True) -> None:
        super().__init__(storage, layer, tables, check_rows, on_disk=False)

    def open(self, number: int) -> OpenShard:
        """Read an object's end."""
        found: list[Found | None] = []
        self._storage.read_many([self.end_of(number)], lambda _, end: found.append(end))
        return self.opened(number, found[0])

    def end_of(self, number: int) -> Piece:
        """Return what is asked for to open a shard."""
        return Piece(self.layer.shard_name(number), end=self.layout.trailer_nbytes)

    def opened(self, number: int, end: Found | None) -> OpenShard:
        """Return a shard whose end was asked for; raises FileNotFoundError, and DamageError."""
        if end is None:
            raise FileNotFoundError(self.where(number))
        return self.described(number, OpenShard(-1, end.size), end.parts[0])

    def _fetch(self, number: int, shard: OpenShard, buffers: tuple[memoryview, memoryview], offset: int) -> int:
        data, tail = buffers
        found = self._storage.read_range(self.layer.shard_name(number), offset, self.layout.slot_nbytes)
        if len(found) == self.layout.slot_nbytes:
            data[:], tail[:] = found[: len(data)], found[len(data) :]
        return len(found)

    def stretches(self, rows: LayerRows[RemoteReader]) -> Iterator[list[int]]:
        """Yield the indices of rows of open shards that are fetched by one request."""
        most, nth = max(1, _PIECE_NBYTES // self.layout.slot_nbytes), rows.plan.nth
        for place, group in groupby(range(len(nth)), key=nth.__getitem__):
            shard, mine = rows.shards[place], list(group)
            if shard is not None and all(shard.offsets.item(rows.plan.slots[i]) >= 0 for i in mine):
                yield from (mine[start : start + most] for start in range(0, len(mine), most))

    def piece(self, rows: LayerRows[RemoteReader], wanted: Sequence[int]) -> Piece:
        """Return what is asked for to read rows of one open shard."""
        nth, nbytes = rows.plan.nth[wanted[0]], self.layout.slot_nbytes
        offsets = _opened(rows, nth).offsets
        ranges = [(offsets.item(rows.plan.slots[i]), nbytes) for i in wanted]
        return Piece(self.layer.shard_name(rows.plan.shards[nth]), ranges)

    def take(self, rows: LayerRows[RemoteReader], wanted: Sequence[int], found: Found) -> Iterator[int]:
        """Check rows that came and put them where they go; yield the indices of those that are right."""
        plan, nbytes, slot_nbytes = rows.plan, self.layout.row_nbytes, self.layout.slot_nbytes
        hashes = _opened(rows, plan.nth[wanted[0]]).hashes
        for i, slot in zip(wanted, found.parts, strict=True):
            right = not self.check_rows or row_hash(self.digest, plan.rows[i], slot) == hashes.item(plan.slots[i])
            if right and len(slot) == slot_nbytes:
                place = plan.places[i]
                rows.out[place * nbytes : (place + 1) * nbytes] = memoryview(slot)[:nbytes]
                yield i


def _opened(rows: LayerRows[Any], nth: int) -> OpenShard:
    shard: OpenShard | None = rows.shards[nth]
    assert shard is not None
    return shard


def read_together(storage: Storage, layers: Sequence[LayerRows[RemoteReader]]) -> None:
    """Read rows of several layers: first the ends of the shards that are not open, then all rows.

    Raises:
        HoleError, DamageError: of the first row that can't be read.
        StoreError: the storage does not answer.
    """
    _open(storage, layers)
    asked = [(rows, stretch) for rows in layers for stretch in rows.reader.stretches(rows)]
    left = [set(range(len(rows.plan.rows))) for rows in layers]
    of = {id(rows): mine for rows, mine in zip(layers, left, strict=True)}

    def take(number: int, found: Found | None) -> None:
        rows, wanted = asked[number]
        if found is not None:
            of[id(rows)].difference_update(rows.reader.take(rows, wanted, found))

    storage.read_many([rows.reader.piece(rows, wanted) for rows, wanted in asked], take)
    for rows, mine in zip(layers, left, strict=True):
        for i in sorted(mine):
            rows.reader.read_slowly(rows, i)


def _open(storage: Storage, layers: Sequence[LayerRows[RemoteReader]]) -> None:
    """Open shards; one that can't be opened is left to the slow way, which raises the reason."""
    missing = [(rows, nth) for rows in layers for nth, shard in enumerate(rows.shards) if shard is None]

    def take(number: int, end: Found | None) -> None:
        rows, nth = missing[number]
        with contextlib.suppress(FileNotFoundError, DamageError):
            rows.shards[nth] = rows.reader.opened(rows.plan.shards[nth], end)

    storage.read_many([rows.reader.end_of(rows.plan.shards[nth]) for rows, nth in missing], take)
