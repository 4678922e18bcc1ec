"""Describe the frames of a store by runs, in memory proportional to its clips.

A frame is all rows of one (source, frame number); its views are consecutive in the table. Frames are numbered dataset
by dataset, in the table's order. A run is a stretch of frames of one dataset with equally many views in which either
the frame number rises by one (a clip) or the source does (a folder of images). Holes and rows left out begin new runs.

Shape suffixes: R rows of the table, n those that take part, F frames, r runs, S sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

_OUTSIDE, _NEXT_FRAME, _NEXT_SOURCE = 0, 1, 2


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
        source = self.source_r[run] + np.where(kind == _NEXT_SOURCE, step, 0)
        frame = self.frame_r[run] + np.where(kind == _NEXT_FRAME, step, 0)
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
    if not len(positions):
        raise UsageError(
            "No rows are left to train on: the training part of the store is empty. Check train.exclude_splits."
        )
    positions = np.asarray(positions, dtype=np.int64)
    positions = positions[_table_order(source_R[positions], frame_R[positions], view_R[positions])]
    source_n, frame_n = source_R[positions], frame_R[positions]
    starts = np.r_[True, (source_n[1:] != source_n[:-1]) | (frame_n[1:] != frame_n[:-1])]
    row_F = np.flatnonzero(starts)
    source_F, frame_F = source_n[row_F].astype(np.int64), frame_n[row_F].astype(np.int64)
    code_S, sizes = _codes(dataset_S, source_F)
    begins = _run_starts(source_F, frame_F, np.diff(np.r_[row_F, len(positions)]), code_S)
    run = _by_dataset(code_S[source_F[begins]])
    first = begins[run]
    return Frames(
        first_r=np.r_[0, np.cumsum(np.diff(np.r_[begins, len(row_F)])[run])[:-1]].astype(np.int64),
        count=len(row_F),
        rows_r=row_F[first],
        views_r=np.diff(np.r_[row_F, len(positions)])[first],
        source_r=source_F[first],
        frame_r=frame_F[first],
        kind_r=_kinds(source_F, frame_F, begins)[run],
        datasets=sizes,
        positions=Positions.of(positions),
    )


def _table_order(source_n: NDArray[Any], frame_n: NDArray[Any], view_n: NDArray[Any]) -> Ints | slice:
    """Return the index that sorts rows by (source, frame, view); a full slice where they are in that order."""
    tied = source_n[1:] == source_n[:-1]
    same = tied & (frame_n[1:] == frame_n[:-1])
    ascending = (source_n[1:] > source_n[:-1]) | (tied & (frame_n[1:] > frame_n[:-1]))
    if (ascending | (same & (view_n[1:] > view_n[:-1]))).all():
        return slice(None)
    return np.lexsort((view_n, frame_n, source_n))


def _codes(dataset_S: Sequence[object], source_F: Ints) -> tuple[Ints, tuple[int, ...]]:
    """Number the datasets in the order in which frames name them; return each source's number and all frame counts."""
    frames_S = np.bincount(source_F, minlength=len(dataset_S))
    numbers: dict[object, int] = {}
    code_S = np.full(len(dataset_S), -1, dtype=np.int64)
    for source in np.flatnonzero(frames_S).tolist():
        code_S[source] = numbers.setdefault(dataset_S[source], len(numbers))
    taking_part = code_S >= 0
    sizes = np.bincount(code_S[taking_part], frames_S[taking_part]).astype(np.int64)
    return code_S, tuple(int(size) for size in sizes)


def _links(source_F: Ints, frame_F: Ints) -> NDArray[np.int8]:
    """Return how each frame follows the one before it, int8 [F]; the first follows none."""
    link = np.zeros(len(source_F), dtype=np.int8)
    same_source, same_frame = source_F[1:] == source_F[:-1], frame_F[1:] == frame_F[:-1]
    link[1:][same_source & (frame_F[1:] == frame_F[:-1] + 1)] = _NEXT_FRAME
    link[1:][same_frame & (source_F[1:] == source_F[:-1] + 1)] = _NEXT_SOURCE
    return link


def _run_starts(source_F: Ints, frame_F: Ints, views_F: Ints, code_S: Ints) -> Ints:
    """Return the frames that begin a run, ascending: those whose kind, views or dataset differ from the one before."""
    link = _links(source_F, frame_F)
    other = (views_F[1:] != views_F[:-1]) | (code_S[source_F[1:]] != code_S[source_F[:-1]])
    link[1:][other] = _OUTSIDE
    turns = (link[1:] != link[:-1]) & (link[:-1] != _OUTSIDE)
    begins = link == _OUTSIDE
    begins[1:] |= turns
    return np.flatnonzero(begins)


def _kinds(source_F: Ints, frame_F: Ints, begins: Ints) -> NDArray[np.int8]:
    """Return what rises along each run, int8 [r]: how its second frame follows its first."""
    link = _links(source_F, frame_F)
    second = begins + 1
    inside = second < np.r_[begins[1:], len(link)]
    kind = np.full(len(begins), _OUTSIDE, dtype=np.int8)
    kind[inside] = link[second[inside]]
    return kind


def _by_dataset(code_r: Ints) -> Ints | slice:
    """Return the index that sorts runs by dataset; a full slice where they are sorted."""
    return slice(None) if (code_r[1:] >= code_r[:-1]).all() else np.argsort(code_r, kind="stable")
