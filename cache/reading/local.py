"""Read and check rows of shard files on a local disk or a mounted share.

A row goes by one `preadv` straight into the batch's memory, its slot's tail into scratch. No mmap: a vanished page of a
network share would be a SIGBUS, not an exception that names the row.

A thread waits for one row at a time. From memory that costs nothing; a disk or a network share answers several
requests in hardly more time than one. So when a row turns out not to lie in memory, the system is asked to fetch the
whole batch, and the threads find the rest there or on its way.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from usjepa.cache.reading.layer_reader import LayerReader, LayerRows
from usjepa.cache.store.row_check import row_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from usjepa.cache.reading.open_shards import OpenShard
    from usjepa.cache.storage.local import LocalStorage
    from usjepa.cache.store.layers import Layer

_NOT_WAITING: int = getattr(os, "RWF_NOWAIT", 0)
"""preadv's flag: give what lies in memory and no more (Linux); 0 where there is none."""
_CANT_TELL = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
"""How file systems and kernels say that they don't know that flag."""


class LocalReader(LayerReader):
    """Reads rows of one layer from files."""

    def __init__(self, storage: LocalStorage, layer: Layer, tables: Sequence[str], check_rows: bool = True) -> None:
        super().__init__(storage, layer, tables, check_rows, on_disk=True)
        self._files = storage
        self.blind = not _NOT_WAITING
        """Whether nobody can tell what lies in memory, as with NFS."""
        self._row_nbytes, self._slot_nbytes = layer.row_nbytes, layer.layout.slot_nbytes

    def open(self, number: int) -> OpenShard:
        """Open a file and read its end."""
        return self.finish_opening(number, self.begin_opening(number))

    def begin_opening(self, shard: int) -> OpenShard:
        """Open a file, and ask the system for its end without waiting; raises OSError as the system does."""
        opened = self.open_shards.open_file(self._files, self.layer.shard_name(shard))
        _ask_for(opened.number, [max(0, opened.size - self.layout.trailer_nbytes)], self.layout.trailer_nbytes)
        return opened

    def finish_opening(self, number: int, shard: OpenShard) -> OpenShard:
        """Read a file's end and keep it open; raises OSError, and DamageError where it is not what was committed."""
        length = self.layout.trailer_nbytes
        return self.described(number, shard, os.pread(shard.number, length, max(0, shard.size - length)))

    def ask_for(self, rows: LayerRows[LocalReader]) -> None:
        """Ask the system to fetch the rows of open shards."""
        plan, offsets = rows.plan, dict[int, list[int]]()
        for nth, slot in zip(plan.nth, plan.slots, strict=True):
            shard = rows.shards[nth]
            if shard is not None:
                offsets.setdefault(shard.number, []).append(max(0, shard.offsets.item(slot)))
        for file, mine in offsets.items():
            _ask_for(file, mine, self.layout.slot_nbytes)

    def _fetch(self, number: int, shard: OpenShard, buffers: tuple[memoryview, memoryview], offset: int) -> int:
        return _read_waiting(shard.number, buffers, offset, self.layout.slot_nbytes)

    def read(self, rows: LayerRows[LocalReader], start: int, stop: int, missed: Callable[[], None]) -> list[int]:
        """Read and check a stretch of a plan's rows, those that lie in memory until the batch was asked for.

        Args:
            rows: of which stretch.
            start: of the stretch.
            stop: its end.
            missed: called when bytes turn out not to lie in memory, before they are waited for.

        Returns:
            The indices of those that are left to `read_slowly`.
        """
        plan, shards, out, preadv = rows.plan, rows.shards, rows.out, os.preadv
        nth, slots, numbers, places = plan.nth, plan.slots, plan.rows, plan.places
        nbytes, slot_nbytes, digest, checked = self._row_nbytes, self._slot_nbytes, self.digest, self.check_rows
        tail = memoryview(bytearray(slot_nbytes - nbytes))
        flags = 0 if rows.waits else _NOT_WAITING
        left = []
        for i in range(start, stop):  # what is called here once per row is all that a batch costs in Python
            shard, slot, place = shards[nth[i]], slots[i], places[i]
            if shard is None or (offset := shard.offsets.item(slot)) < 0:
                left.append(i)  # preadv would take a hole's offset for "from where the file stands"
                continue
            data = out[place * nbytes : (place + 1) * nbytes]
            try:
                got = preadv(shard.number, (data, tail), offset, flags)
            except OSError as error:
                self.blind |= bool(flags) and error.errno in _CANT_TELL
                got = 0
            if got == slot_nbytes:
                if not checked or row_hash(digest, numbers[i], data, tail) == shard.hashes.item(slot):
                    continue
            elif flags:
                missed()
                flags = 0
            left.append(i)
        return left


def _ask_for(file: int, offsets: Sequence[int], nbytes: int) -> None:
    """Ask the system to fetch pieces of `nbytes` each, without waiting. Nothing is promised."""
    # Whatever is wrong here, the read itself meets again and raises.
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            for start, stop in _stretches(offsets, nbytes):
                os.posix_fadvise(file, start, stop - start, os.POSIX_FADV_WILLNEED)


def _read_waiting(file: int, buffers: Sequence[memoryview], offset: int, wanted: int) -> int:
    """Fill buffers, waiting for the disk and going on where a read is cut short; return how many bytes came."""
    got = 0
    while got < wanted:
        more = os.preadv(file, _behind(buffers, got), offset + got)
        if not more:
            break  # the file ends here
        got += more
    return got


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
