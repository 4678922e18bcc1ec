"""A batch cut into runs, the pieces that reading threads take; and the rows behind them asked for ahead of time.

A thread waits for one run at a time. From memory that costs nothing; a disk or a network share answers several requests
in hardly more time than one. So when the first run turns out not to lie in memory, the system is asked to fetch all of
the batch, and the threads find the rest on its way or there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usjepa.cache.errors import DamageError
from usjepa.cache.storage import unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from usjepa.cache.reading import LayerReader

Groups = list[tuple[int, list[int], list[int]]]
"""(shard, rows, places in the batch)."""


class Run(NamedTuple):
    """Some rows of one shard of one layer, and where in the batch they go: what a thread takes at a time."""

    reader: LayerReader
    shard: int
    rows: list[int]
    places: list[int]
    out: memoryview

    def read(self, missed: Callable[[], None]) -> None:
        """Read the rows; once more, from a freshly opened file, when a share gave a stale handle or stale bytes.

        `missed` is called when they turn out not to lie in memory, before the disk is waited for.

        Raises:
            DamageError, HoleError: see `LayerReader.read_shard_rows`.
            StoreError: the system refuses twice.
        """
        try:
            self.reader.read_shard_rows(self.shard, self.rows, self.places, self.out, missed)
            return
        except (DamageError, OSError):
            self.reader.forget(self.shard)
        try:
            self.reader.read_shard_rows(self.shard, self.rows, self.places, self.out)
        except OSError as error:
            raise unreadable(self.reader.where(self.shard), error) from error


def runs_of(reader: LayerReader, groups: Groups, out: memoryview) -> Iterator[Run]:
    """Cut a layer's part of a batch into runs."""
    for shard, rows, places in groups:
        for start in range(0, len(rows), reader.run_rows):
            stop = start + reader.run_rows
            yield Run(reader, shard, rows[start:stop], places[start:stop], out)


def by_shard(rows: list[int], rows_per_shard: int) -> Groups:
    """Group rows by shard: (shard, rows, places in the batch), rows ascending within each.

    Plain Python: for a batch of hundreds, NumPy's calls cost more than they save, and nothing is read meanwhile.
    """
    groups: Groups = []
    last: int | None = None
    for place in sorted(range(len(rows)), key=rows.__getitem__):
        shard = rows[place] // rows_per_shard
        if shard != last:
            groups.append((shard, [], []))
            last = shard
        groups[-1][1].append(rows[place])
        groups[-1][2].append(place)
    return groups


class ReadAhead:
    """Asks the system, once, for every row of a batch."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._asked = False

    def begin(self) -> None:
        """Ask at once where the file system can't say what lies in memory: there no miss would be noticed."""
        if any(run.reader.blind for run in self._runs):
            self.ask()

    def ask(self) -> None:
        """Ask for the runs' bytes, unless that was done; of as many shards as stay open until they are read."""
        if self._asked:
            return
        self._asked = True  # two threads that come here at once ask twice, which does no harm
        shards: set[tuple[str, int]] = set()
        for run in self._runs:
            shards.add((run.reader.layer.name, run.shard))
            if len(shards) > run.reader.shards_ahead:
                return
            run.reader.ask_for(run.shard, run.rows)
