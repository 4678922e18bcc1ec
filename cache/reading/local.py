"""Read and check rows of shards on a local disk or a mounted share.

A row goes by one `preadv` straight into the batch's memory, its slot's tail into scratch. No mmap: a vanished page of a
network share would be a SIGBUS, not an exception that names the row.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from usjepa.cache.reading.layer_reader import LayerReader, LayerRows
from usjepa.cache.reading.page_cache import CANT_TELL, NOT_WAITING, ask_for, read_waiting
from usjepa.cache.store.row_check import row_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.reading.open_shards import OpenShard
    from usjepa.cache.reading.plan import ReadPlan
    from usjepa.cache.storage.local import LocalStorage
    from usjepa.cache.store.layers import Layer

PIECE_NBYTES = 1 << 18
"""Bytes that a thread takes at a time at least: few pieces of small rows, whose threads would hand the interpreter's
lock to and fro, and a single large row, so that threads end together."""


class LocalReader(LayerReader):
    """Reads rows of one layer from files."""

    def __init__(self, storage: LocalStorage, layer: Layer, tables: Sequence[str], check_rows: bool = True) -> None:
        super().__init__(storage, layer, tables, check_rows, on_disk=True)
        self._files = storage
        self.blind = not NOT_WAITING

    def begin_opening(self, shard: int) -> OpenShard:
        """Open a file, and ask the system for its end without waiting."""
        opened = self.open_shards.open_file(self._files, self.layer.shard_name(shard))
        ask_for(opened.number, [max(0, opened.size - self.layout.trailer_nbytes)], self.layout.trailer_nbytes)
        return opened

    def _end_of(self, number: int, shard: OpenShard) -> bytes:
        length = self.layout.trailer_nbytes
        return os.pread(shard.number, length, max(0, shard.size - length))

    def end_of_piece(self, plan: ReadPlan, start: int, rows: int) -> int:
        """Return the end of `rows` rows, or of `PIECE_NBYTES` where those are more."""
        return min(start + max(1, rows, PIECE_NBYTES // self.layout.slot_nbytes), len(plan.rows))

    def ask_for(self, rows: LayerRows) -> None:
        """Ask the system to fetch the rows of open shards."""
        plan, offsets = rows.plan, dict[int, list[int]]()
        for nth, slot in zip(plan.nth, plan.slots, strict=True):
            shard = rows.shards[nth]
            if shard is not None:
                offsets.setdefault(shard.number, []).append(max(0, shard.offsets.item(slot)))
        for file, mine in offsets.items():
            ask_for(file, mine, self.layout.slot_nbytes)

    def _fetch(self, number: int, shard: OpenShard, buffers: tuple[memoryview, memoryview], offset: int) -> int:
        return read_waiting(shard.number, buffers, offset, self.layout.slot_nbytes)

    def read(self, rows: LayerRows, start: int, stop: int, missed: Callable[[], None]) -> list[int]:
        """Read and check rows of a plan, those that lie in memory until the batch was asked for."""
        plan, shards, out, layout, preadv = rows.plan, rows.shards, rows.out, self.layout, os.preadv
        nbytes, slot_nbytes, digest, checked = layout.row_nbytes, layout.slot_nbytes, self.digest, self.check_rows
        tail = memoryview(bytearray(layout.tail_nbytes))
        flags = 0 if rows.waits else NOT_WAITING
        left = []
        for i in range(start, stop):
            shard, slot, place = shards[plan.nth[i]], plan.slots[i], plan.places[i]
            if shard is None or (offset := shard.offsets.item(slot)) < 0:
                left.append(i)  # preadv would take a hole's offset for "from where the file stands"
                continue
            data = out[place * nbytes : (place + 1) * nbytes]
            try:
                got = preadv(shard.number, (data, tail), offset, flags)
            except OSError as error:
                self.blind |= bool(flags) and error.errno in CANT_TELL
                got = 0
            if got == slot_nbytes:
                if not checked or row_hash(digest, plan.rows[i], data, tail) == shard.hashes.item(slot):
                    continue
            elif flags:
                missed()
                flags = 0
            left.append(i)
        return left
