"""A batch cut into pieces, which threads that read take one after another, the largest rows first.

The pieces of all layers are numbered on; a number is all that a thread takes, and it works out for itself which rows
those are. Where there is a compiled loop over a layer's rows, which shares them out by itself, a piece is a thread's
part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from usjepa.cache.reading.reading import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.reading.ahead import ReadAhead
    from usjepa.cache.reading.batch_rows import BatchRows
    from usjepa.cache.reading.reading import LayerReader
    from usjepa.cache.reading.row_loop import RowLoop

SHARED_NBYTES = 1 << 20
"""Bytes of a layer from which more than one thread takes part in a compiled loop: to wake one takes 50 us."""
_PIECES = 4
"""Pieces that a layer is cut into for each thread, at least, without a loop: few enough that taking them costs little,
enough that threads end together."""


@dataclass(slots=True)  # not frozen: a frozen one takes three times as long to make
class Pieces:
    """One layer's part of a batch, cut into pieces."""

    reader: LayerReader
    rows: BatchRows
    array: NDArray[Any]
    """C-contiguous [B, *shape], where the rows go."""
    loop: RowLoop | None
    """The compiled loop over these rows, where there is one."""
    first: int
    """Number of the first piece."""
    end: int
    """Number behind the last one."""
    piece_rows: int
    """Rows of a piece, without a loop."""

    def read(self, number: int, take: Callable[[], int], ahead: ReadAhead) -> int:
        """Read pieces from `number` on, whichever `take` gives, until none is left; return the last number."""
        while number < self.end:
            if self.loop is not None:
                self._take_part(self.loop, ahead)
            else:
                for run in self._runs(number):
                    self.reader.read(run, ahead.ask)
            number = take()
        return number

    def _take_part(self, loop: RowLoop, ahead: ReadAhead) -> None:
        """Take part in the compiled loop; read by ourselves, and look twice, what it leaves."""
        try:
            while (place := loop.run(0 if ahead.asked else self.reader.flags)) >= 0:
                row = int(self.rows.numbers[place])
                shard = self.reader.layer.shard_of(row)
                self.reader.read(Run(shard, (row,), (place,), self._out()), ahead.ask)
        except BaseException:
            loop.stop()
            raise

    def _runs(self, number: int) -> Iterator[Run]:
        """Cut a piece where a shard ends."""
        listed, shard_of = self.rows.listed, self.reader.layer.shard_of
        out, start = self._out(), (number - self.first) * self.piece_rows
        places = self.rows.order[start : start + self.piece_rows]
        for shard, found in groupby(places, lambda place: shard_of(listed[place])):
            mine = list(found)
            yield Run(shard, [listed[place] for place in mine], mine, out)

    def _out(self) -> memoryview:
        return self.array.reshape(-1).view("u1").data


def pieces_of(layers: Sequence[tuple[LayerReader, NDArray[Any]]], rows: BatchRows, threads: int) -> list[Pieces]:
    """Return the pieces of layers, whose rows go into arrays, numbered on."""
    found: list[Pieces] = []
    for reader, array in layers:
        first, rows_read = end_of(found), len(rows.numbers)
        loop, piece_rows = reader.loop(rows.numbers, array), rows_read
        if loop is not None:
            end = first + (threads if array.nbytes >= SHARED_NBYTES else 1)
        else:
            piece_rows = _piece_rows(reader, rows_read, threads)
            end = first - (-rows_read // piece_rows)
        found.append(Pieces(reader, rows, array, loop, first, end, piece_rows))
    return found


def _piece_rows(reader: LayerReader, rows: int, threads: int) -> int:
    """Return how many of a batch's rows a thread takes at a time, without a loop."""
    if threads == 1 or reader.alone:
        return rows
    pieces = threads * (1 if reader.remote else _PIECES)
    return max(1, min(reader.most_rows, -(-rows // pieces)))


def end_of(batch: Sequence[Pieces]) -> int:
    """Return how many pieces there are."""
    return batch[-1].end if batch else 0


def read_all(batch: Sequence[Pieces], ahead: ReadAhead, take: Callable[[], int]) -> None:
    """Read pieces, whichever `take` gives, until all are taken: what each of the threads does.

    When rows turn out not to lie in memory, `ahead` asks for the whole batch before the disk is waited for.

    Raises:
        DamageError, HoleError, StoreError: see `LayerReader.read`.
    """
    number = take()
    for pieces in batch:
        number = pieces.read(number, take, ahead)
