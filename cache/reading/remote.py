"""Read and check rows of shards in an object storage, one call per shard."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from usjepa.cache.reading.layer_reader import LayerReader, LayerRows
from usjepa.cache.reading.open_shards import OpenShard
from usjepa.cache.store.row_check import row_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.reading.plan import ReadPlan
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.layers import Layer

_CALL_ROWS = 64
"""Rows that are fetched by one call: as many as a thread holds beside the batch."""


class RemoteReader(LayerReader):
    """Reads rows of one layer from objects."""

    def __init__(self, storage: Storage, layer: Layer, tables: Sequence[str], check_rows: bool = True) -> None:
        super().__init__(storage, layer, tables, check_rows, on_disk=False)

    def begin_opening(self, shard: int) -> OpenShard:
        """Find out an object's size."""
        size = self._storage.size(self.layer.shard_name(shard))
        if size is None:
            raise FileNotFoundError(self.where(shard))
        return OpenShard(-1, size)

    def _end_of(self, number: int, shard: OpenShard) -> bytes:
        length = self.layout.trailer_nbytes
        return self._storage.read_range(self.layer.shard_name(number), max(0, shard.size - length), length)

    def end_of_piece(self, plan: ReadPlan, start: int, rows: int) -> int:
        """Return the end of the rows that lie in one shard, as they are fetched by one call."""
        return min(bisect_right(plan.nth, plan.nth[start], start), start + _CALL_ROWS)

    def ask_for(self, rows: LayerRows) -> None:
        """Do nothing: an object storage fetches what it is asked for and no more."""

    def _fetch(self, number: int, shard: OpenShard, buffers: tuple[memoryview, memoryview], offset: int) -> int:
        data, tail = buffers
        found = self._storage.read_range(self.layer.shard_name(number), offset, self.layout.slot_nbytes)
        if len(found) == self.layout.slot_nbytes:
            data[:], tail[:] = found[: len(data)], found[len(data) :]
        return len(found)

    def read(self, rows: LayerRows, start: int, stop: int, missed: Callable[[], None]) -> list[int]:
        """Read and check a plan's rows of one shard; raises StoreError where the storage does not answer."""
        plan, nth, nbytes = rows.plan, rows.plan.nth[start], self.layout.row_nbytes
        shard, wanted = rows.shards[nth], range(start, stop)
        offsets = [] if shard is None else [shard.offsets.item(plan.slots[i]) for i in wanted]
        if shard is None or min(offsets) < 0:
            return list(wanted)
        name, slot_nbytes = self.layer.shard_name(plan.shards[nth]), self.layout.slot_nbytes
        try:
            found = self._storage.read_ranges(name, [(offset, slot_nbytes) for offset in offsets])
        except FileNotFoundError:
            return list(wanted)
        left = []
        for i, slot in zip(wanted, found, strict=True):
            whole = len(slot) == slot_nbytes
            hashed = shard.hashes.item(plan.slots[i])
            if whole and (not self.check_rows or row_hash(self.digest, plan.rows[i], slot) == hashed):
                place = plan.places[i]
                rows.out[place * nbytes : (place + 1) * nbytes] = memoryview(slot)[:nbytes]
            else:
                left.append(i)
        return left
