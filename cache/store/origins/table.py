"""Find where each row of a store comes from: its source, frame and view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.lazy import lazy
from usjepa.cache.places.runs import Runs
from usjepa.cache.places.stretches import Stretches
from usjepa.cache.store.columns import batches
from usjepa.cache.store.origins.segment_tables import not_of_its_sources, open_rows
from usjepa.cache.store.origins.sources import PackedSources, Source, Sources
from usjepa.cache.store.tables import RowTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.places.stretches import Chunk
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment


class Origin(NamedTuple):
    """What a row shows: a view of a frame of a source."""

    source: Source
    frame: int
    """Number within the source, from 0."""
    view: int
    """0 is the plain frame."""

    def __str__(self) -> str:
        return f"{self.source.path}, frame {self.frame}, view {self.view}"


class Table:
    """Where each row comes from: arrays aligned with `Store.rows`, made when they are first asked for.

    Attributes:
        sources: what `source` counts.
    """

    def __init__(
        self, sources: Sequence[Source], source: NDArray[np.int32], frame: NDArray[np.int32], view: NDArray[np.int16]
    ) -> None:
        """Hold the arrays, [R'] each."""
        self.sources = sources
        self._view: NDArray[Any] = view
        vars(self).update(source=source, frame=frame, view=view)

    @classmethod
    def packed(cls, sources: Sequence[Source], stretches: Stretches, view: NDArray[np.integer[Any]]) -> Table:
        """Return a table that holds no array but the views, in any integer type."""
        made = cls.__new__(cls)
        made.sources, made._view = sources, view
        vars(made)["stretches"] = stretches
        return made

    @lazy
    def stretches(self) -> Stretches:
        """Sources and frames of the rows, without an array of them."""
        return Stretches.of([(self.source, self.frame, self.view)])

    @lazy
    def source(self) -> NDArray[np.int32]:
        """[R'] index into `sources`."""
        return self.stretches.columns()[0]

    @lazy
    def frame(self) -> NDArray[np.int32]:
        """[R'] frame number within the source."""
        return self.stretches.columns()[1]

    @lazy
    def view(self) -> NDArray[np.int16]:
        """[R'] 0 is the plain frame."""
        return self._view.astype(np.int16)

    def views_at(self, positions: NDArray[np.int64] | slice) -> NDArray[np.integer[Any]]:
        """Return the views of the rows at some positions, [n]."""
        return self._view[positions]

    def origin(self, position: int) -> Origin:
        """Return the origin of the row at a position of `Store.rows`."""
        source, frame = (int(value[0]) for value in self.stretches.at(np.array([position])))
        return Origin(self.sources[source], frame, int(self._view[position]))

    def source_columns(self, *names: str) -> Iterator[list[list[Any]]]:
        """Yield columns of the sources, a list a name, batch after batch: however they are held."""
        yield from self.columns_of(self.sources, *names)

    @staticmethod
    def columns_of(sources: Sequence[Source], *names: str) -> Iterator[list[list[Any]]]:
        """Yield columns of sources, as `source_columns` does."""
        if isinstance(sources, PackedSources):
            yield from sources.columns(*names)
            return
        yield [[getattr(source, name) for source in sources] for name in names]

    def source_column(self, name: str) -> NDArray[np.object_]:
        """Return a column of the sources, [S]; equal values are one object."""
        seen: dict[Any, Any] = {}
        values = np.empty(len(self.sources), dtype=object)
        first = 0
        for (batch,) in self.source_columns(name):
            values[first : first + len(batch)] = [seen.setdefault(value, value) for value in batch]
            first += len(batch)
        return values

    def content_hashes(self, sources: NDArray[np.int64]) -> list[str]:
        """Return the content hashes of some sources, ascending numbers."""
        found: list[str] = []
        first = 0
        for (batch,) in self.source_columns("content_hash"):
            low, high = np.searchsorted(sources, (first, first + len(batch)))
            found += [batch[number - first] for number in sources[low:high].tolist()]
            first += len(batch)
        return found

    def dataset_codes(self) -> NDArray[np.int32]:
        """Return a number per source, int32 [S], equal for those of one dataset, in the order in which they come."""
        numbers: dict[str, int] = {}
        parts = [np.empty(0, np.int32)]
        for (names,) in self.source_columns("dataset"):
            codes = (numbers.setdefault(name, len(numbers)) for name in names)
            parts.append(np.fromiter(codes, np.int32, len(names)))
        return np.concatenate(parts)

    def _column(self, name: str) -> NDArray[np.object_]:
        return self.source_column(name)[self.source]

    @lazy
    def dataset(self) -> NDArray[np.object_]:
        """[R'] dataset names."""
        return self._column("dataset")

    @lazy
    def group(self) -> NDArray[np.object_]:
        """[R'] groups (patients, clips): never to straddle a split."""
        return self._column("group")

    @lazy
    def label(self) -> NDArray[np.object_]:
        """[R'] labels, "" for none."""
        return self._column("label")

    @lazy
    def split(self) -> NDArray[np.object_]:
        """[R'] splits, "" for none."""
        return self._column("split")


def table_of(storage: Storage, segments: Sequence[Segment], rows: Runs) -> Table:
    """Return the table of the rows that exist, of all segments; raises DamageError as `read_tables`."""
    sources = Sources(storage, segments)
    views: list[NDArray[np.int8] | NDArray[np.int16]] = []
    stretches = Stretches.of(_chunks(storage, segments, sources, rows, views))
    return Table.packed(sources, stretches, np.concatenate([np.empty(0, np.int8), *views]))


def _chunks(
    storage: Storage,
    segments: Sequence[Segment],
    sources: Sources,
    rows: Runs,
    views: list[NDArray[np.int8] | NDArray[np.int16]],
) -> Iterator[Chunk]:
    """Yield the rows of segments that exist, batch after batch; their views are kept in `views`."""
    for segment, first, stop in zip(segments, sources.firsts[:-1].tolist(), sources.firsts[1:].tolist(), strict=True):
        row = segment.first_row
        with open_rows(storage, segment) as file:
            for source, frame, view in batches(RowTable, file, ("source", "frame", "view"), segment.rows):
                if len(source) and not 0 <= source.min() <= source.max() < stop - first:
                    raise not_of_its_sources(storage, segment)
                kept = rows.within(row, row + len(source))
                row += len(source)
                chosen = slice(None) if kept is None else kept
                narrow = view[chosen].astype(np.int16)
                small = 0 <= narrow.min(initial=0) <= narrow.max(initial=0) < 128
                views.append(narrow.astype(np.int8) if small else narrow)
                yield source[chosen] + np.int32(first), frame[chosen], narrow
        if row != segment.first_row + segment.rows:
            raise not_of_its_sources(storage, segment)


def origin_of(storage: Storage, segments: Sequence[Segment], row: int) -> Origin:
    """Return the origin of one row; raises DamageError as `read_tables`, StopIteration where no segment has the row."""
    segment = next(s for s in segments if s.first_row <= row < s.first_row + s.rows)
    every_row = Runs.of(np.array([segment.first_row]), np.array([segment.rows]))
    return table_of(storage, [segment], every_row).origin(row - segment.first_row)
