"""Describe the rows of a table by stretches, in memory proportional to its clips.

A frame is neighbouring rows of one (source, frame number). A stretch is neighbouring frames of equally many rows, from
one to the next of which either the frame number rises by one (a clip) or the source does (a folder of images). Holes
begin new stretches.

Shape suffixes: R rows, n those of a chunk, F frames, r stretches, S sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.places.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

ALONE, NEXT_FRAME, NEXT_SOURCE = 0, 1, 2
"""What rises by one from frame to frame of a stretch; nothing in one of a single frame."""
Chunk = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]
"""Source, frame number and view of neighbouring rows, integers [n] each."""


@dataclass(frozen=True)
class Stretches:
    """R rows as r stretches, in their order."""

    row_r: Ints
    """[r] index of each stretch's first row; begins with 0."""
    rows: int
    """R."""
    frames_r: NDArray[np.int32]
    """[r] frames."""
    views_r: NDArray[np.int32]
    """[r] rows of each frame."""
    source_r: NDArray[np.int32]
    """[r] source of the first frame."""
    frame_r: NDArray[np.int32]
    """[r] number of the first frame."""
    kind_r: NDArray[np.int8]
    """[r] what rises from frame to frame."""
    in_order: bool
    """Whether sources, within them frames, and within those views ascend, each once."""

    @classmethod
    def of(cls, chunks: Iterable[Chunk]) -> Stretches:
        """Describe rows that come in chunks."""
        parts: list[_Part] = []
        held: Chunk = (np.empty(0, np.int32),) * 3
        first, ascend = 0, True
        for chunk in chunks:
            held = _joined(held, chunk)
            source, frame, view = held
            if not len(source):
                continue
            same = (source[1:] == source[:-1]) & (frame[1:] == frame[:-1])
            ascend &= bool((~same | (view[1:] > view[:-1])).all())
            starts = np.flatnonzero(np.r_[True, ~same])
            last = int(starts[-1])  # this frame may go on in the next chunk
            _append(parts, _described(source, frame, starts, first))
            held = (source[last:].copy(), frame[last:].copy(), view[last:].copy())
            first += last
        if len(held[0]):
            _append(parts, _described(held[0], held[1], np.array([0, len(held[0])]), first))
        return _merged(parts, first + len(held[0]), ascend)

    def __len__(self) -> int:
        return self.rows

    def _steps(self, kind: int, step: Any, stretch: Any) -> Any:
        return np.where(self.kind_r[stretch] == kind, step, 0)

    def at(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return source and frame number of rows, int64 [n] each."""
        stretch = np.searchsorted(self.row_r, rows, side="right") - 1
        step = (rows - self.row_r[stretch]) // self.views_r[stretch]
        source = self.source_r[stretch] + self._steps(NEXT_SOURCE, step, stretch)
        return source, self.frame_r[stretch] + self._steps(NEXT_FRAME, step, stretch)

    def columns(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return source and frame number of every row, int32 [R] each."""
        frames = int(self.frames_r.sum())
        first = np.cumsum(self.frames_r, dtype=np.int64) - self.frames_r
        step = (np.arange(frames) - np.repeat(first, self.frames_r)).astype(np.int32)
        views = np.repeat(self.views_r, self.frames_r)
        found = []
        for start, kind in ((self.source_r, NEXT_SOURCE), (self.frame_r, NEXT_FRAME)):
            value = np.repeat(start, self.frames_r)
            value += step * np.repeat((self.kind_r == kind).astype(np.int8), self.frames_r)
            found.append(np.repeat(value, views))
        return found[0], found[1]

    def _rows_of_sources(self, sources: Ints) -> Ints:
        """Return the rows within stretches at which these sources, ascending, begin."""
        rising = np.flatnonzero(self.kind_r == NEXT_SOURCE)
        first = self.source_r[rising].astype(np.int64)
        low = np.searchsorted(sources, first + 1)
        count = np.searchsorted(sources, first + self.frames_r[rising]) - low
        which = np.repeat(np.arange(len(rising)), count)
        begun = sources[np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + low[which]]
        rows: Ints = self.row_r[rising[which]] + (begun - first[which]) * self.views_r[rising[which]]
        return rows

    def cut(self, part: Runs | None = None, sources: Ints | None = None) -> Stretches | None:
        """Return the stretches of some rows, and how they lie in the table; None where a frame would be cut in two.

        Args:
            part: the rows; None: all.
            sources: ascending, those before which a stretch ends.
        """
        places = [self.row_r] if sources is None else [self.row_r, self._rows_of_sources(sources)]
        if part is not None:
            places += [part.first_r, part.first_r + part.counts_r]
        rows = np.unique(np.concatenate([*places, [self.rows]]))
        start, count = rows[:-1], np.diff(rows)
        if part is not None:
            inside = part.find(start)[1]
            start, count = start[inside], count[inside]
        stretch = np.searchsorted(self.row_r, start, side="right") - 1
        views = self.views_r[stretch]
        offset = start - self.row_r[stretch]
        if (offset % views).any() or (count % views).any():
            return None
        step = offset // views
        return Stretches(
            start,
            self.rows,
            (count // views).astype(np.int32),
            views,
            (self.source_r[stretch] + self._steps(NEXT_SOURCE, step, stretch)).astype(np.int32),
            (self.frame_r[stretch] + self._steps(NEXT_FRAME, step, stretch)).astype(np.int32),
            self.kind_r[stretch],
            self.in_order,
        )

    def rows_of(self, wanted_S: NDArray[np.bool_]) -> Runs:
        """Return the rows of some sources, bool [S]."""
        cut = self.cut(sources=np.flatnonzero(wanted_S[1:] != wanted_S[:-1]) + 1)
        assert cut is not None  # a frame is of one source
        mine = wanted_S[cut.source_r]
        return Runs.of(cut.row_r[mine], (cut.frames_r * cut.views_r.astype(np.int64))[mine])

    def rows_per_source(self, sources: int) -> NDArray[Any]:
        """Return how many rows each of so many sources has, integers [S]."""
        kind: Any = np.int32 if self.rows < 2**31 else np.int64
        change = np.zeros(sources + 1, kind)
        views = self.views_r.astype(kind)
        rising = self.kind_r == NEXT_SOURCE
        height = np.where(rising, views, views * self.frames_r)
        np.add.at(change, self.source_r, height)
        np.add.at(change, self.source_r + np.where(rising, self.frames_r, 1), -height)
        counts: NDArray[Any] = np.cumsum(change, dtype=kind, out=change)[:-1]
        return counts

    def sources_of(self, part: Runs) -> Ints:
        """Return the sources of some rows, ascending, each once."""
        cut = self.cut(part)
        if cut is None:
            return np.unique(self.at(np.asarray(part))[0])
        rising = cut.kind_r == NEXT_SOURCE
        stop = cut.source_r + np.where(rising, cut.frames_r, 1)
        change = np.zeros(int(stop.max(initial=0)) + 1, np.int64)
        np.add.at(change, cut.source_r, 1)
        np.add.at(change, stop, -1)
        return np.flatnonzero(np.cumsum(change))


def _joined(held: Chunk, chunk: Chunk) -> Chunk:
    if not len(held[0]):
        return chunk
    source, frame, view = (np.concatenate(pair) for pair in zip(held, chunk, strict=True))
    return source, frame, view


@dataclass(frozen=True)
class _Part:
    """The stretches of a chunk."""

    row_r: NDArray[Any]
    frames_r: NDArray[Any]
    views_r: NDArray[Any]
    source_r: NDArray[Any]
    frame_r: NDArray[Any]
    kind_r: NDArray[Any]


def _described(source: NDArray[Any], frame: NDArray[Any], starts: Ints, first: int) -> _Part:
    """Describe the frames that begin at rows `starts`, but for the last, which only ends the one before."""
    row_F, views_F = starts[:-1], np.diff(starts)
    source_F, frame_F = source[row_F], frame[row_F]
    link = np.full(len(row_F), ALONE, np.int8)
    same = views_F[1:] == views_F[:-1]
    link[1:][same & (source_F[1:] == source_F[:-1]) & (frame_F[1:] == frame_F[:-1] + 1)] = NEXT_FRAME
    link[1:][same & (frame_F[1:] == frame_F[:-1]) & (source_F[1:] == source_F[:-1] + 1)] = NEXT_SOURCE
    begins = link == ALONE
    begins[1:] |= (link[1:] != link[:-1]) & (link[:-1] != ALONE)
    at = np.flatnonzero(begins)
    frames = np.diff(at, append=len(row_F))
    kind = link[np.minimum(at + 1, len(link) - 1)]  # of the second frame: how it follows the first
    kind[frames == 1] = ALONE
    return _Part(row_F[at] + first, frames, views_F[at], source_F[at], frame_F[at], kind)


def _append(parts: list[_Part], part: _Part) -> None:
    """Add the stretches of a chunk, the first of them joined to the last one before where it goes on."""
    if not len(part.row_r):
        return
    if parts:
        before = parts[-1]
        kind, steps = int(before.kind_r[-1]), int(before.frames_r[-1]) - 1
        source = int(part.source_r[0] - before.source_r[-1]) - steps * (kind == NEXT_SOURCE)
        frame = int(part.frame_r[0] - before.frame_r[-1]) - steps * (kind == NEXT_FRAME)
        link = {(0, 1): NEXT_FRAME, (1, 0): NEXT_SOURCE}.get((source, frame), ALONE)
        same = part.views_r[0] == before.views_r[-1] and {kind, int(part.kind_r[0])} <= {ALONE, link}
        if link != ALONE and same:
            before.frames_r[-1] += part.frames_r[0]
            before.kind_r[-1] = link
            part = _Part(*(column[1:] for column in vars(part).values()))
    if len(part.row_r):
        parts.append(part)


def _merged(parts: list[_Part], rows: int, ascend: bool) -> Stretches:
    def column(name: str, kind: Any) -> NDArray[Any]:
        return np.concatenate([np.empty(0, kind), *(getattr(part, name).astype(kind) for part in parts)])

    row, frames, views = column("row_r", np.int64), column("frames_r", np.int32), column("views_r", np.int32)
    source, frame, kind = column("source_r", np.int32), column("frame_r", np.int32), column("kind_r", np.int8)
    source_last = source + np.where(kind == NEXT_SOURCE, frames - 1, 0)
    frame_last = frame + np.where(kind == NEXT_FRAME, frames - 1, 0)
    later = (source[1:] > source_last[:-1]) | ((source[1:] == source_last[:-1]) & (frame[1:] > frame_last[:-1]))
    return Stretches(row, rows, frames, views, source, frame, kind, ascend and bool(later.all()))
