"""Copy chosen rows of a store, numbered anew, into shards of their own.

A segment of the copy holds the chosen rows of one segment of the source, in their order; its tables name the sources of
these rows alone. What stands for sources that withdrew comes along whatever is chosen: it tells nothing, and without it
their files would join the copy when it grows. Rows are read as training reads them, each checked against its old place,
and packed with checksums that bind them to their new one. Latents keep their bytes, and their record says that their
rows were chosen: computed again they would lie in other batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from usjepa.cache.copying.whole import Tally, in_threads, threads_between
from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.store.commits import read_commit
from usjepa.cache.store.descriptions import soft_of
from usjepa.cache.store.origins.segment_tables import open_sources, read_tables
from usjepa.cache.store.tables import WITHDRAWN, SourceTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.copying.target import Order
    from usjepa.cache.identity import Json
    from usjepa.cache.reading.store import Store
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.commits import Commit
    from usjepa.cache.store.generations import Segment
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.tables import RowTable
    from usjepa.cache.store.writer import StoreWriter

Notes = list[tuple[int, str]]


class _Part(NamedTuple):
    """The chosen rows of one segment of the source."""

    sources: bytes
    rows: bytes
    """Both tables, as Parquet."""
    numbers: NDArray[np.int64]
    """Of the rows in the source, ascending."""


@dataclass
class RowsCopy:
    """Copies chosen rows."""

    order: Order
    store: Store
    """The source, open."""
    writer: StoreWriter
    """Of the target."""
    numbers: NDArray[np.int64]
    """The chosen rows, ascending."""
    _chosen: list[NDArray[np.int64]] = field(default_factory=list)
    """Row numbers in the source, a segment of the target each."""

    def run(self) -> Tally:
        """Copy what the target lacks, and seal it.

        Raises:
            DamageError: a chosen row of the source is damaged.
        """
        manifest, writer = self.order.manifest, self.writer
        writer.create_or_open(manifest.rows_per_shard)
        self._add_segments()
        layers = [writer.add_layer(layer) for layer in manifest.layers.values()]
        done = writer.committed(layers)
        tally = Tally(len(self.numbers))
        tasks: list[Callable[[], int | None]] = [
            partial(self._shard, layer, shard, done[layer.name].get(shard))
            for layer in layers
            for shard in range(writer.state.shard_count)
        ]
        in_threads(threads_between(self.order.source, writer.storage), tasks, tally, "copy")
        # They were gone before the copy's first generation.
        writer.seal(tuple({**entry, "generation": 1} for entry in self.order.manifest.removed))
        return tally

    def _add_segments(self) -> None:
        storage, segments = self.order.source, self.order.manifest.segments
        mine = [self._numbers_in(segment) for segment in segments]
        strays = [
            _withdrawn(storage, segment) for segment, chosen in zip(segments, mine, strict=True) if not len(chosen)
        ]
        found = 0
        for segment, chosen in zip(segments, mine, strict=True):
            if not len(chosen):
                continue
            part = _part_of(read_tables(storage, segment), segment, chosen, () if found else strays)
            found += 1
            if found > len(self.writer.state.segments):
                self.writer.add_segment(part.sources, part.rows, len(part.numbers))
            there = self.writer.state.segments[found - 1]
            hashes = tuple(xxhash.xxh3_128_hexdigest(table) for table in (part.sources, part.rows))
            if (there.rows, there.sources_hash, there.rows_hash) != (len(part.numbers), *hashes):
                raise UsageError(f"{self.writer.storage.url}: its {there.folder} holds other rows: give another DST.")
            self._chosen.append(part.numbers)

    def _numbers_in(self, segment: Segment) -> NDArray[np.int64]:
        first, stop = np.searchsorted(self.numbers, (segment.first_row, segment.first_row + segment.rows))
        return self.numbers[first:stop]

    def _shard(self, layer: Layer, shard: int, done: Commit | None) -> int | None:
        """Copy the rows of one shard of the target; return its bytes, None where it is there."""
        if done is not None:
            return None
        state = self.writer.state
        numbers, segment = state.rows_of_shard(shard), state.segment_of_shard(shard)
        start = numbers.start - segment.first_row
        old = self._chosen[state.segments.index(segment)][start : start + len(numbers)]
        values = self.store.read(old, layers=(layer.name,)).arrays[layer.name]
        soft: dict[str, Json] = dict(soft_of(self.order.manifest, layer.name, layer.shard_of(int(old[0]))))
        if layer.teacher is not None:
            soft["copied"] = "chosen rows"
        notes = self._notes(layer, old, numbers) if layer.teacher is None else ([], [])
        return self.writer.write_shard(layer, shard, values, [], soft, *notes).size

    def _notes(self, layer: Layer, old: NDArray[np.int64], new: range) -> tuple[Notes, Notes]:
        """Return what the source's records tell of rows without echo and of doubtful regions, by the new numbers."""
        renamed = dict(zip(old.tolist(), new, strict=True))
        blank, doubtful = Notes(), Notes()
        for shard in np.unique(old // layer.rows_per_shard).tolist():
            try:
                commit = read_commit(self.order.source, layer, shard)
            except DamageError:
                commit = None  # the notes stood in it alone; `verify` names it
            if commit is not None:
                blank += [(renamed[row], what) for row, what in commit.blank if row in renamed]
                doubtful += [(renamed[row], what) for row, what in commit.doubtful if row in renamed]
        return blank, doubtful


def _withdrawn(storage: Storage, segment: Segment) -> SourceTable:
    """Return the lines of a segment's sources that withdrew."""
    with open_sources(storage, segment) as file:
        sources = SourceTable.from_parquet(file.read())
    return sources.take(sources.error == WITHDRAWN)


def _part_of(
    tables: tuple[SourceTable, RowTable], segment: Segment, mine: NDArray[np.int64], strays: Sequence[SourceTable]
) -> _Part:
    """Return the tables of the chosen rows of a segment, ascending, one at least.

    Sources that withdrew follow those of the rows: the segment's own, and `strays`, of segments of which nothing is
    chosen. Names of data sets go where no row has them.
    """
    sources, rows = tables
    taken = rows.take(mine - segment.first_row)
    used, source = np.unique(taken.source, return_inverse=True)
    renumbered = replace(taken, source=source.astype(np.int32))
    shown = sources.take(used)
    gone = SourceTable.joined([sources.take(sources.error == WITHDRAWN), *strays])
    named = np.isin(gone.dataset.astype(str), shown.dataset.astype(str))
    gone = replace(gone, dataset=np.where(named, gone.dataset, WITHDRAWN))
    described = SourceTable.joined([shown, gone]) if len(gone) else shown
    return _Part(described.to_parquet(), renumbered.to_parquet(), mine)
