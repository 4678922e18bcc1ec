"""Read rows of one layer by a fast way and a slow one.

The fast way (`local.py`, `remote.py`) reads and checks rows and leaves those that did not come out right: of a shard
that is not open, not in memory, with a wrong hash. The slow way takes each of them by itself: it waits, reads once more
from a freshly opened file, as a network share may have given a stale handle or stale bytes, and raises what is wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from usjepa.cache.errors import DamageError, HoleError
from usjepa.cache.reading.open_shards import OpenShard, OpenShards
from usjepa.cache.storage.local import unreadable
from usjepa.cache.store.row_check import row_hash
from usjepa.cache.store.shard import parse_trailer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.places.runs import Runs
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.layers import Layer


ReaderT = TypeVar("ReaderT", bound="LayerReader")


class ReadPlan:
    """Shard, slot and place of every row of a batch, in the order of the files: planned once for all layers.

    Made of lists in plain Python: where a training step swept the processor's caches, NumPy's code must be fetched from
    memory first, and a plan of 64 rows took 111 us in place of 61; of 256 rows 122 and 106.
    """

    __slots__ = ("_shard_rows", "nth", "places", "rows", "shards", "slots")

    def __init__(self, rows: list[int], places: list[int], shard_rows: int) -> None:
        """Plan [n] row numbers, ascending; `places` [n] are theirs in the batch."""
        self._shard_rows = shard_rows
        self.rows, self.places = rows, places
        """[n] Numbers of the rows, and their places within the batch."""
        self.shards: list[int] = []
        """Numbers of the shards, ascending, each once."""
        self.nth: list[int] = []
        """[n] Which of `shards` a row lies in."""
        self.slots: list[int] = []
        """[n] Place of a row within its shard."""
        last, nth = -1, -1
        for row in rows:
            shard = row // shard_rows
            if shard != last:
                last, nth = shard, nth + 1
                self.shards.append(shard)
            self.nth.append(nth)
            self.slots.append(row - shard * shard_rows)

    @classmethod
    def of(cls, numbers: NDArray[np.int64], shard_rows: int, places: NDArray[np.int64] | None = None) -> ReadPlan:
        """Plan [n] row numbers in the order asked for, where `shard_rows` rows make a shard.

        `places` [n] are theirs in the batch where it has rows of other stores too.
        """
        rows = numbers.tolist()
        order = sorted(range(len(rows)), key=rows.__getitem__)
        return cls([rows[i] for i in order], order if places is None else places[order].tolist(), shard_rows)

    def parts(self, most: int) -> list[ReadPlan]:
        """Return plans of at most `most` shards each, which together are this one."""
        if len(self.shards) <= most:
            return [self]
        cuts = [bisect_left(self.nth, nth) for nth in range(0, len(self.shards), most)]
        return [
            ReadPlan(self.rows[start:stop], self.places[start:stop], self._shard_rows)
            for start, stop in pairwise([*cuts, len(self.rows)])
        ]

    def foreseen(self, existing: Runs) -> tuple[list[int], list[int]]:
        """Return how many rows before each, [n], and how many in all its shard holds if just `existing` rows exist."""
        firsts = np.array(self.shards) * self._shard_rows
        begin, end = existing.below(firsts), existing.below(firsts + self._shard_rows)
        return (existing.below(np.array(self.rows)) - begin[self.nth]).tolist(), (end - begin).tolist()


class LayerRows(Generic[ReaderT]):
    """One layer's rows of a batch: where they lie and where they go."""

    __slots__ = ("out", "plan", "reader", "shards", "waits")

    def __init__(self, reader: ReaderT, plan: ReadPlan, array: NDArray[Any]) -> None:
        """`array` is the batch's, C-contiguous [B, *shape]."""
        self.reader, self.plan = reader, plan
        self.shards: list[OpenShard | None] = reader.open_shards.pinned(plan.shards)
        """Those of the plan, pinned while this lives; None where one could not be opened."""
        self.out: memoryview = array.reshape(-1).view(np.uint8).data
        self.waits = False
        """Whether the disk may be waited for: everything was asked for already."""

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return len(self.plan.rows) * self.reader.layout.slot_nbytes


class LayerReader(ABC):
    """Reads rows of one layer, given the table hashes of its shards. Of one process; its threads may share it."""

    def __init__(self, storage: Storage, layer: Layer, tables: Sequence[str], check_rows: bool, on_disk: bool) -> None:
        """`check_rows=False` skips the rows' checksums."""
        self.layer, self.check_rows = layer, check_rows
        self.open_shards = OpenShards(layer.rows_per_shard, on_disk, len(tables))
        self._storage, self._tables = storage, tables
        self.layout = layer.layout
        self.digest = bytes.fromhex(layer.digest)

    @abstractmethod
    def open(self, number: int) -> OpenShard:
        """Return a shard whose end is read; raises OSError as the system does, StoreError, and DamageError."""

    @abstractmethod
    def _fetch(self, number: int, shard: OpenShard, buffers: tuple[memoryview, memoryview], offset: int) -> int:
        """Fill buffers from a shard, waiting for the disk or the network; return how many bytes came."""

    def described(self, number: int, shard: OpenShard, end: bytes) -> OpenShard:
        """Take a shard's end and keep it open; raises DamageError where it is not what was committed."""
        where, table = self.where(number), self._tables[number]
        shard.describe(parse_trailer(end, shard.size, self.layout, table, where))
        return self.open_shards.add(number, shard)

    def where(self, shard: int) -> str:
        """Return a shard's place, for messages."""
        return f"{self._storage.url}/{self.layer.shard_name(shard)} (shard {shard})"

    def read_slowly(self, rows: LayerRows[Any], i: int) -> None:
        """Read one row, the i-th of a plan.

        Raises:
            HoleError: it holds no data.
            DamageError: its bytes are not those that were built, or its shard is missing.
            StoreError: the system refuses twice.
        """
        nth, row = rows.plan.nth[i], rows.plan.rows[i]
        number = rows.plan.shards[nth]
        try:
            try:
                self._read_row(rows, i, number)
            except (DamageError, OSError):
                self.open_shards.drop(number)
                rows.shards[nth] = None
                self._read_row(rows, i, number)
        except FileNotFoundError as error:
            raise DamageError(
                f"{self.where(number)}: the file is missing; row {row} needs it. Run verify.",
                layer=self.layer.name, shard=number, row=row,
            ) from error  # fmt: skip
        except OSError as error:
            raise unreadable(self.where(number), error) from error
        except (DamageError, HoleError) as error:
            error.layer, error.shard, error.row = self.layer.name, number, row
            raise

    def _read_row(self, rows: LayerRows[Any], i: int, number: int) -> None:
        plan, layout = rows.plan, self.layout
        shard = rows.shards[plan.nth[i]]
        row, slot, place = plan.rows[i], plan.slots[i], plan.places[i]
        if shard is None:
            try:
                shard = rows.shards[plan.nth[i]] = self.open(number)
            except DamageError as error:
                raise DamageError(f"{error} Row {row} needs it.") from error
        offset = shard.offsets.item(slot)
        if offset < 0:
            raise HoleError(f"{self.where(number)}: row {row} holds no data.")
        data = rows.out[place * layout.row_nbytes : (place + 1) * layout.row_nbytes]
        tail = memoryview(bytearray(layout.tail_nbytes))
        if self._fetch(number, shard, (data, tail), offset) != layout.slot_nbytes:
            raise DamageError(f"{self.where(number)}: the file ends within row {row}: it was cut.")
        if self.check_rows and row_hash(self.digest, row, data, tail) != shard.hashes.item(slot):
            raise DamageError(
                f"{self.where(number)}: row {row} is not what was built: its bytes were changed or belong elsewhere. "
                "Run `usjepa-cache verify`."
            )
