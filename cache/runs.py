"""A batch cut into runs, the pieces that reading threads take; and the rows behind them asked for ahead of time.

A thread waits for one run at a time. From memory that costs nothing; a disk or a network share answers several requests
in hardly more time than one. So when the first run turns out not to lie in memory, the system is asked to fetch all of
the batch, and the threads find the rest on its way or there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.errors import DamageError
from usjepa.cache.reading import Run
from usjepa.cache.storage import unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from usjepa.cache.handles import OpenFile
    from usjepa.cache.reading import LayerReader

Groups = list[tuple[int, list[int], list[int]]]
"""(shard, rows, places in the batch)."""


def runs_of(reader: LayerReader, groups: Groups, files: Mapping[int, OpenFile], out: memoryview) -> Iterator[Run]:
    """Cut a layer's part of a batch into runs; `files` are the shards' that are lent already."""
    for shard, rows, places in groups:
        file = files.get(shard)
        for start in range(0, len(rows), reader.run_rows):
            stop = start + reader.run_rows
            yield Run(shard, rows[start:stop], places[start:stop], out, file)


def read_run(reader: LayerReader, run: Run, missed: Callable[[], None]) -> None:
    """Read a run; once more, from a freshly opened file, when a share gave a stale handle or stale bytes.

    `missed` is called when rows turn out not to lie in memory, before the disk is waited for.

    Raises:
        DamageError, HoleError: see `LayerReader.read`.
        StoreError: the system refuses twice.
    """
    try:
        reader.read(run, missed)
        return
    except (DamageError, OSError):
        reader.forget(run.shard)
    try:
        reader.read(run._replace(file=None))
    except OSError as error:
        raise unreadable(reader.where(run.shard), error) from error


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

    def __init__(self, readers: Sequence[LayerReader], groups: Groups) -> None:
        self._readers, self._groups = readers, groups
        self._asked = False

    def begin(self) -> None:
        """Ask at once where the file system can't say what lies in memory: there no miss would be noticed."""
        if any(reader.blind for reader in self._readers):
            self.ask()

    def ask(self) -> None:
        """Ask for the batch's bytes, unless that was done; of as many shards as stay open until they are read."""
        if self._asked:
            return
        self._asked = True  # two threads that come here at once ask twice, which does no harm
        shards = 0
        for reader in self._readers:
            most = reader.shards_ahead
            for shard, rows, _ in self._groups:
                shards += 1
                if shards > most:
                    return
                reader.ask_for(shard, rows)
