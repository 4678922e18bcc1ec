"""Join the tables of several stores, and find what more than one of them holds.

Sources are numbered store after store. One that two stores describe alike, down to its content (as after a copy of some
of its rows), is one source. A file of the same content under another description stays a source of its own, a twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.store.origins import Table
from usjepa.cache.store.tables import WITHDRAWN, tombstone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.store.origins import Source

    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Joined:
    """One table, and what several stores hold."""

    table: Table
    part_S: NDArray[np.int16]
    """[S] which store each source is of; of several, the first."""
    repeated: Ints
    """Positions of rows that an earlier store has too: the same source, frame and view."""
    twins: tuple[tuple[int, int], ...]
    """(source, a source of a later store with the same content under another description)."""
    withdrawn: Ints
    """Sources whose content was withdrawn from another of the stores."""


def join(tables: Sequence[Table]) -> Joined:
    """Return the tables of stores as one, in their order."""
    shared = _shared_contents(tables)
    joining = _Joining()
    numbers = [joining.add(part, table, shared) for part, table in enumerate(tables)]
    source = np.concatenate([number[table.source] for number, table in zip(numbers, tables, strict=True)])
    frame = np.concatenate([table.frame for table in tables])
    view = np.concatenate([table.view for table in tables])
    table = Table(tuple(joining.sources), source, frame, view)
    part_S = np.array(joining.parts, np.int16)
    return Joined(
        table, part_S, _repeated(table, joining.merged), tuple(joining.twins), _withdrawn(joining.sources, part_S)
    )


class _Joining:
    """The sources so far."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.parts: list[int] = []
        self.merged: set[int] = set()
        self.twins: list[tuple[int, int]] = []
        self._known: dict[str, list[int]] = {}

    def add(self, part: int, table: Table, shared: set[str]) -> NDArray[np.int32]:
        """Take in a store's sources; return the number of each."""
        number = np.empty(len(table.sources), np.int32)
        mine: list[tuple[str, int]] = []
        for i, source in enumerate(table.sources):
            same = self._known.get(source.content_hash, []) if source.content_hash in shared else []
            there = next((j for j in same if self.sources[j] == source), None)
            if there is not None:
                number[i] = there
                self.merged.add(there)
                continue
            number[i] = len(self.sources)
            self.twins += [(j, len(self.sources)) for j in same]
            if source.content_hash in shared:
                mine.append((source.content_hash, len(self.sources)))
            self.sources.append(source)
            self.parts.append(part)
        for content, j in mine:  # now only: two files of one store are none of our business
            self._known.setdefault(content, []).append(j)
        return number


def _shared_contents(tables: Sequence[Table]) -> set[str]:
    """Return the content hashes that sources of two stores have; unreadable and withdrawn ones do not count."""
    seen: set[str] = set()
    shared: set[str] = set()
    for table in tables:
        mine = {source.content_hash for source in table.sources if source.content_hash and not source.error}
        shared |= mine & seen
        seen |= mine
    return shared


def _repeated(table: Table, merged: set[int]) -> Ints:
    if not merged:
        return np.empty(0, np.int64)
    rows = np.flatnonzero(np.isin(table.source, np.fromiter(merged, np.int32)))
    columns = (table.view[rows], table.frame[rows], table.source[rows])
    order = np.lexsort(columns)  # stable: of equal rows the earliest comes first
    again = np.logical_and.reduce([column[order][1:] == column[order][:-1] for column in columns])
    return np.sort(rows[order[1:][again]])


def _withdrawn(sources: Sequence[Source], part_S: NDArray[np.int16]) -> Ints:
    """Return the sources whose content another store names as withdrawn."""
    stones: dict[str, set[int]] = {}
    for number, source in enumerate(sources):
        if source.error == WITHDRAWN:
            stones.setdefault(source.content_hash, set()).add(int(part_S[number]))
    if not stones:
        return np.empty(0, np.int64)
    found = [
        number
        for number, source in enumerate(sources)
        if not source.error and stones.get(tombstone(source.content_hash), set()) - {int(part_S[number])}
    ]
    return np.array(found, np.int64)
