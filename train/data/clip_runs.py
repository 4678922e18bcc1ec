"""Describe the frames of a store by runs, in memory proportional to its clips.

A frame is all rows of one (source, frame number); its views are consecutive in the table. Frames are numbered dataset
by dataset, in the table's order. A run is a stretch of frames (`usjepa.cache.places.stretches`) of one dataset. Rows
left out begin new runs.

Shape suffixes: R rows of the table, n those that take part, F frames, r runs, S sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.places.runs import Runs
from usjepa.cache.places.stretches import NEXT_FRAME, NEXT_SOURCE, Stretches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache import Table

    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Frames:
    """F frames as r runs, ordered by dataset; frame f lies in the last run that begins at or before f."""

    first_r: Ints
    """int64 [r], number of each run's first frame; ascending, begins with 0."""
    count: int
    """F."""
    rows_r: Ints
    """int64 [r], index of the first row of the run's first frame, among the rows that take part, in their order."""
    views_r: Ints
    """int64 [r], rows per frame."""
    source_r: Ints
    """int64 [r], source of the run's first frame."""
    frame_r: Ints
    """int64 [r], frame number of the run's first frame."""
    kind_r: NDArray[np.int8]
    """int8 [r], which of the two rises by one from frame to frame."""
    datasets: tuple[int, ...]
    """Frames of each dataset, in the order in which the table first names them."""
    positions: Positions
    """Maps a row index to its position in the table."""

    def find(self, frames: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Return row index of the first view, number of views, source and frame number: int64 [n] each."""
        run = np.searchsorted(self.first_r, frames, side="right") - 1
        step = frames - self.first_r[run]
        kind, views = self.kind_r[run], self.views_r[run]
        source = self.source_r[run] + np.where(kind == NEXT_SOURCE, step, 0)
        frame = self.frame_r[run] + np.where(kind == NEXT_FRAME, step, 0)
        return self.rows_r[run] + step * views, views, source, frame

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        runs = (self.first_r, self.rows_r, self.views_r, self.source_r, self.frame_r, self.kind_r)
        return sum(column.nbytes for column in runs) + self.positions.nbytes


@dataclass(frozen=True)
class Positions:
    """A mostly consecutive list of positions, held as runs of consecutive ones."""

    index_r: Ints
    """int64 [r], index in the list of each run's first position; ascending, begins with 0."""
    position_r: Ints
    """int64 [r], each run's first position."""

    @classmethod
    def of(cls, positions: Ints) -> Positions:
        """Describe a list, int64 [n], n > 0."""
        index_r = np.flatnonzero(np.r_[True, positions[1:] != positions[:-1] + 1])
        return cls(index_r, positions[index_r])

    def __getitem__(self, index: Ints) -> Ints:
        run = np.searchsorted(self.index_r, index, side="right") - 1
        found: Ints = self.position_r[run] + (index - self.index_r[run])
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.index_r.nbytes + self.position_r.nbytes


def frames_of(
    dataset_S: Sequence[object], source_R: NDArray[Any], frame_R: NDArray[Any], view_R: NDArray[Any], positions: Ints
) -> Frames:
    """Describe the frames of the rows at `positions`.

    Args:
        dataset_S: the dataset of each source, by name or code.
        source_R: integers [R], index into dataset_S.
        frame_R: integers [R], frame number within the source.
        view_R: integers [R].
        positions: int64 [n], the rows that take part, each once.

    Raises:
        UsageError: no row takes part.
    """
    _require_rows(len(positions))
    positions = np.asarray(positions, dtype=np.int64)
    positions = positions[_table_order(source_R[positions], frame_R[positions], view_R[positions])]
    chosen = Stretches.of([(source_R[positions], frame_R[positions], view_R[positions])])
    numbers: dict[object, int] = {}
    code_S = np.array([numbers.setdefault(dataset, len(numbers)) for dataset in dataset_S], np.int32)
    cut = chosen.cut(sources=_changes(code_S))
    assert cut is not None  # a frame is of one source
    return _frames(cut, code_S, cut.row_r, Positions.of(positions))


def frames_of_part(code_S: NDArray[np.int32], table: Table, part: Runs | Ints) -> Frames:
    """Describe the frames of some rows of a table; no array of all rows is made where they are in the table's order.

    Args:
        code_S: a number per source, equal for those of one dataset.
        table: whose rows.
        part: positions of the rows that take part, ascending.

    Raises:
        UsageError: no row takes part.
    """
    _require_rows(len(part))
    part = Runs.like(part)
    cut = table.stretches.cut(part, _changes(code_S)) if table.stretches.in_order else None
    if cut is None:
        return frames_of(code_S.tolist(), table.source, table.frame, table.view, np.asarray(part))
    return _frames(cut, code_S, part.find(cut.row_r)[0], Positions(part.index_r, part.first_r))


def _require_rows(count: int) -> None:
    if not count:
        raise UsageError(
            "No rows are left to train on: the training part of the store is empty. Check train.exclude_splits."
        )


def _changes(code_S: NDArray[np.int32]) -> Ints:
    """Return the sources that are of another dataset than the one before."""
    return np.flatnonzero(code_S[1:] != code_S[:-1]) + 1


def _frames(cut: Stretches, code_S: NDArray[np.int32], index_r: Ints, positions: Positions) -> Frames:
    """Order stretches, each of one dataset, by datasets; `index_r` are the indices of their first rows."""
    frames_r = cut.frames_r.astype(np.int64)
    named, place_r = np.unique(code_S[cut.source_r], return_inverse=True)
    # Datasets are numbered in the order in which sources with frames name them.
    first = np.full(len(named), np.iinfo(np.int64).max)
    np.minimum.at(first, place_r, cut.source_r)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(named), np.int64)
    rank[order] = np.arange(len(named))
    code_r = rank[place_r]
    sizes = np.bincount(code_r, frames_r).astype(np.int64)
    run = slice(None) if (code_r[1:] >= code_r[:-1]).all() else np.argsort(code_r, kind="stable")
    frames_r = frames_r[run]
    return Frames(
        first_r=np.cumsum(frames_r) - frames_r,
        count=int(frames_r.sum()),
        rows_r=index_r[run],
        views_r=cut.views_r[run].astype(np.int64),
        source_r=cut.source_r[run].astype(np.int64),
        frame_r=cut.frame_r[run].astype(np.int64),
        kind_r=cut.kind_r[run],
        datasets=tuple(sizes.tolist()),
        positions=positions,
    )


def _table_order(source_n: NDArray[Any], frame_n: NDArray[Any], view_n: NDArray[Any]) -> Ints | slice:
    """Return the index that sorts rows by (source, frame, view); a full slice where they are in that order."""
    tied = source_n[1:] == source_n[:-1]
    same = tied & (frame_n[1:] == frame_n[:-1])
    ascending = (source_n[1:] > source_n[:-1]) | (tied & (frame_n[1:] > frame_n[:-1]))
    if (ascending | (same & (view_n[1:] > view_n[:-1]))).all():
        return slice(None)
    return np.lexsort((view_n, frame_n, source_n))
