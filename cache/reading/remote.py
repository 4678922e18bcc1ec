"""Read and check rows in an object storage: all of a batch at once."""

from __future__ import annotations

import contextlib
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from usjepa.cache.errors import DamageError
from usjepa.cache.reading.layer_reader import LayerReader, LayerRows
from usjepa.cache.reading.open_shards import OpenShard
from usjepa.cache.storage.protocol import Piece
from usjepa.cache.store.row_check import row_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usjepa.cache.places.runs import Runs
    from usjepa.cache.storage.protocol import Found, Storage
    from usjepa.cache.store.layers import Layer

_PIECE_NBYTES = 8 << 20
"""Bytes of neighbours that are fetched by one request: several of them together are faster than one that is long."""
_NEAR_NBYTES = 1 << 18
"""Bytes between the rows that are wanted of a shard and its end that are fetched with both, to ask once: less than
comes during a round trip."""


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
        return self.described(number, OpenShard(-1, end.size), end.parts[0][-self.layout.trailer_nbytes :])

    def _fetch(self, number: int, shard: OpenShard, buffers: tuple[memoryview, memoryview], offset: int) -> int:
        data, tail = buffers
        found = self._storage.read_range(self.layer.shard_name(number), offset, self.layout.slot_nbytes)
        if len(found) == self.layout.slot_nbytes:
            data[:], tail[:] = found[: len(data)], found[len(data) :]
        return len(found)

    def piece(self, number: int, offsets: Sequence[int], guessed: bool) -> Piece:
        """Return what is asked for to read rows of a shard that lie at offsets."""
        ranges = [(offset, self.layout.slot_nbytes) for offset in offsets]
        return Piece(self.layer.shard_name(number), ranges, guessed=guessed)

    def take(
        self, rows: LayerRows[RemoteReader], wanted: Sequence[int], offsets: Sequence[int], slots: Sequence[bytes]
    ) -> Iterator[int]:
        """Check rows of an open shard that came from offsets and put them where they go; yield which are right."""
        plan, nbytes, slot_nbytes = rows.plan, self.layout.row_nbytes, self.layout.slot_nbytes
        shard = rows.shards[plan.nth[wanted[0]]]
        for i, offset, slot in zip(wanted, offsets, slots, strict=True):
            place = plan.slots[i]
            if shard is None or shard.offsets.item(place) != offset or len(slot) != slot_nbytes:
                continue
            if not self.check_rows or row_hash(self.digest, plan.rows[i], slot) == shard.hashes.item(place):
                rows.out[plan.places[i] * nbytes : (plan.places[i] + 1) * nbytes] = memoryview(slot)[:nbytes]
                yield i


def read_together(storage: Storage, layers: Sequence[LayerRows[RemoteReader]], existing: Runs) -> None:
    """Read rows of several layers at once, those of shards that are not open with the shards' ends.

    Args:
        storage: of the store.
        layers: which rows of which layers.
        existing: the rows that exist, as far as known: where rows of a shard lie whose end was not read yet.

    Raises:
        HoleError, DamageError: of the first row that can't be read.
        StoreError: the storage does not answer.
    """
    batch = _Batch(storage, layers)
    batch.read(existing)
    if batch.is_left:  # guessed wrongly
        batch.read(None)
    batch.read_slowly()


class _Asked(NamedTuple):
    """A request for the end of a shard, or for rows; or, where both lie near each other, for both."""

    rows: LayerRows[RemoteReader]
    nth: int
    """Place of the shard in the plan."""
    piece: Piece
    wanted: Sequence[int] = ()
    """Indices of rows that it brings ..."""
    offsets: Sequence[int] = ()
    """... and where in the shard they lie."""


class _Batch:
    """What is left to read of a batch."""

    def __init__(self, storage: Storage, layers: Sequence[LayerRows[RemoteReader]]) -> None:
        self._storage, self._layers = storage, layers
        self._left = {id(rows): set(range(len(rows.plan.rows))) for rows in layers}
        self._early: dict[tuple[int, int], list[tuple[_Asked, Sequence[bytes]]]] = {}
        """Rows that came before the end of their shard."""

    @property
    def is_left(self) -> bool:
        """Whether rows of open shards are left, which came from another place than theirs, or not at all."""
        return any(rows.shards[rows.plan.nth[i]] is not None for rows in self._layers for i in self._left[id(rows)])

    def read(self, existing: Runs | None) -> None:
        """Ask at once for all that is left of open shards, and of others where it lies if just `existing` rows exist.

        Ends are asked for first, so that a row seldom comes before that of its shard.
        """
        asked = [each for rows in self._layers for each in self._asked(rows, existing)]
        asked.sort(key=lambda each: not each.piece.end)

        def take(number: int, found: Found | None) -> None:
            if asked[number].piece.end:
                self._take_end(asked[number], found)
            elif found is not None:
                self._take_rows(asked[number], found.parts)

        self._storage.read_many([each.piece for each in asked], take)
        self._early.clear()

    def _asked(self, rows: LayerRows[RemoteReader], existing: Runs | None) -> Iterator[_Asked]:
        plan, left, slot_nbytes = rows.plan, self._left[id(rows)], rows.reader.layout.slot_nbytes
        before, counts = plan.foreseen(existing) if existing is not None and None in rows.shards else ([], [])
        for nth, group in groupby(sorted(left), key=plan.nth.__getitem__):
            shard, mine = rows.shards[nth], list(group)
            if shard is not None:
                mine = [i for i in mine if shard.offsets.item(plan.slots[i]) >= 0]  # the slow way names a hole
                yield from self._rows(rows, nth, mine, [shard.offsets.item(plan.slots[i]) for i in mine])
            elif existing is not None:
                yield from self._unopened(rows, nth, mine, [before[i] * slot_nbytes for i in mine], counts[nth])

    def _unopened(
        self, rows: LayerRows[RemoteReader], nth: int, mine: list[int], offsets: list[int], count: int
    ) -> Iterator[_Asked]:
        """Yield what is asked for of a shard whose end was not read yet, where `count` rows are thought to be."""
        layout, end = rows.reader.layout, rows.reader.end_of(rows.plan.shards[nth])
        nbytes = max(end.end, layout.size(count) - offsets[0])
        if nbytes <= min(_PIECE_NBYTES, _NEAR_NBYTES + end.end + len(mine) * layout.slot_nbytes):
            yield _Asked(rows, nth, end._replace(end=nbytes), mine, offsets)
        else:
            yield _Asked(rows, nth, end)
            yield from self._rows(rows, nth, mine, offsets)

    def _rows(self, rows: LayerRows[RemoteReader], nth: int, mine: list[int], offsets: list[int]) -> Iterator[_Asked]:
        most, number = max(1, _PIECE_NBYTES // rows.reader.layout.slot_nbytes), rows.plan.shards[nth]
        for start in range(0, len(mine), most):
            wanted, places = mine[start : start + most], offsets[start : start + most]
            yield _Asked(rows, nth, rows.reader.piece(number, places, rows.shards[nth] is None), wanted, places)

    def _take_end(self, asked: _Asked, found: Found | None) -> None:
        rows, nth = asked.rows, asked.nth
        with contextlib.suppress(FileNotFoundError, DamageError):  # left to the slow way, which raises the reason
            rows.shards[nth] = rows.reader.opened(rows.plan.shards[nth], found)
            if found is not None and asked.wanted:
                begin = found.size - len(found.parts[0])
                self._take_rows(asked, [_slot(found.parts[0], at - begin, rows) for at in asked.offsets])
        for each, slots in self._early.pop((id(rows), nth), ()):
            self._take_rows(each, slots)

    def _take_rows(self, asked: _Asked, slots: Sequence[bytes]) -> None:
        rows, nth = asked.rows, asked.nth
        if rows.shards[nth] is None:
            self._early.setdefault((id(rows), nth), []).append((asked, slots))
        else:
            self._left[id(rows)].difference_update(rows.reader.take(rows, asked.wanted, asked.offsets, slots))

    def read_slowly(self) -> None:
        """Read one after the other what is still left; raises what is wrong with the first."""
        for rows in self._layers:
            for i in sorted(self._left[id(rows)]):
                rows.reader.read_slowly(rows, i)


def _slot(end: bytes, begin: int, rows: LayerRows[RemoteReader]) -> bytes:
    return end[begin : begin + rows.reader.layout.slot_nbytes] if begin >= 0 else b""
