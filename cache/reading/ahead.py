"""Rows of a batch asked for ahead of time.

A thread waits for one piece of a batch at a time. From memory that costs nothing; a disk or a network share answers
several requests in hardly more time than one. So when the first piece turns out not to lie in memory, the system is
asked to fetch all of the batch, and the threads find the rest on its way or there.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.reading.batch_rows import BatchRows
    from usjepa.cache.reading.reading import LayerReader


class ReadAhead:
    """Asks the system, once, for every row of a batch."""

    def __init__(self, readers: Sequence[LayerReader], rows: BatchRows) -> None:
        self._readers, self._rows = readers, rows
        self.asked = False
        """Whether the batch was asked for."""

    def begin(self) -> None:
        """Ask at once where the file system can't say what lies in memory: there no miss would be noticed."""
        for reader in self._readers:
            if reader.blind:
                self.ask()

    def ask(self) -> None:
        """Ask for the batch's bytes, unless that was done; of shards not yet open, as many as stay open until then."""
        if self.asked:
            return
        self.asked = True  # two threads that come here at once ask twice, which does no harm
        shards = 0
        for reader in self._readers:
            most = reader.shards_ahead
            for shard, rows in groupby(reader.ask_known(self._rows.numbers), reader.layer.shard_of):
                shards += 1
                if shards > most:
                    return
                reader.ask_for(shard, list(rows))
