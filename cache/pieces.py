"""A batch cut into pieces, which threads that read take one after another, the largest rows first.

The pieces of all layers are numbered on; a number is all that a thread takes, and it works out for itself which rows
those are. Nothing is prepared a row, so that the first byte is read soon after a batch was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from usjepa.cache.reading import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.handles import OpenFile
    from usjepa.cache.reading import LayerReader


@dataclass(slots=True)  # not frozen: a frozen one takes three times as long to make
class Pieces:
    """One layer's part of a batch, cut into pieces."""

    reader: LayerReader
    rows: Sequence[int]
    """Row numbers, in the order asked for."""
    order: Sequence[int]
    """Places in the batch, in the order of the file."""
    out: memoryview
    """Bytes of the batch's C-contiguous [B, *shape] array."""
    files: Mapping[int, OpenFile]
    """Shard -> its file, of those that were open already; lent until the batch is read."""
    first: int
    """Number of the first piece."""
    end: int
    """Number behind the last one."""
    piece_rows: int

    def places(self, number: int) -> Sequence[int]:
        """Return the places of a piece."""
        start = (number - self.first) * self.piece_rows
        return self.order[start : start + self.piece_rows]

    def runs(self, places: Sequence[int]) -> Iterator[Run]:
        """Cut places where a shard ends."""
        rows_per_shard = self.reader.layer.rows_per_shard
        for shard, found in groupby(places, lambda place: self.rows[place] // rows_per_shard):
            mine = list(found)
            yield Run(shard, [self.rows[place] for place in mine], mine, self.out, self.files.get(shard))

    def give_back(self) -> None:
        """Give the files back."""
        self.reader.give_back(self.files.values())


def pieces_of(
    layers: Sequence[tuple[LayerReader, NDArray[Any]]], rows: Sequence[int], order: Sequence[int], threads: int
) -> list[Pieces]:
    """Return the pieces of layers, whose rows go into arrays, numbered on; their files are to be given back."""
    found: list[Pieces] = []
    for reader, array in layers:
        files = reader.lend_open({row // reader.layer.rows_per_shard for row in rows})
        piece_rows, first = reader.piece_rows(len(rows), threads), end_of(found)
        end = first - (-len(rows) // piece_rows)
        found.append(Pieces(reader, rows, order, array.reshape(-1).view("u1").data, files, first, end, piece_rows))
    return found


def end_of(batch: Sequence[Pieces]) -> int:
    """Return how many pieces there are."""
    return batch[-1].end if batch else 0


def read_all(batch: Sequence[Pieces], missed: Callable[[], None], take: Callable[[], int]) -> None:
    """Read pieces, whichever `take` gives, until all are taken: what each of the threads does.

    `missed` is called when rows turn out not to lie in memory, before the disk is waited for.

    Raises:
        DamageError, HoleError, StoreError: see `LayerReader.read`.
    """
    number = take()
    for pieces in batch:
        number = pieces.reader.read_pieces(pieces, number, take, missed)
