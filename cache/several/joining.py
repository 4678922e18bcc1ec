"""Join the tables of several stores, and find what more than one of them holds.

Sources are numbered store after store. One that two stores describe alike, down to its content (as after a copy of some
of its rows), is one source. A file of the same content under another description stays a source of its own, a twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.places.digests import DIGEST, among, digests, short_hashes
from usjepa.cache.places.runs import Runs
from usjepa.cache.places.stretches import Stretches
from usjepa.cache.store.origins.sources import SOURCE_FIELDS, PackedSources, Source
from usjepa.cache.store.origins.table import Table
from usjepa.cache.store.tables import WITHDRAWN, tombstone

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.places.digests import Digests
    from usjepa.cache.places.stretches import Chunk

    Ints = NDArray[np.int64]

_AT_ONCE = 1 << 18
"""Rows that are renumbered together."""


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


class JoinedSources(PackedSources):
    """The sources of several tables, but for those that an earlier one has; they stay where they are."""

    def __init__(self, tables: Sequence[Table], own: Sequence[Runs]) -> None:
        """Take of each table its sources `own`."""
        self._tables, self._own = [table.sources for table in tables], own
        self._firsts = np.cumsum([0, *map(len, own)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def at(self, number: int) -> Source:
        """Return one."""
        part = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self._tables[part][int(self._own[part][number - int(self._firsts[part])])]

    def columns(self, *names: str) -> Iterator[list[list[Any]]]:
        """Yield columns, a list a name, batch after batch."""
        for sources, own in zip(self._tables, self._own, strict=True):
            first = 0
            for columns in Table.columns_of(sources, *names):
                stop = first + len(columns[0])
                kept = own.within(first, stop) if stop > first else None
                first = stop
                if kept is None:
                    yield columns
                elif kept.any():
                    places = np.flatnonzero(kept).tolist()
                    yield [[column[place] for place in places] for column in columns]


def join(tables: Sequence[Table]) -> Joined:
    """Return the tables of stores as one, in their order."""
    joining = _Joining(_shared_contents(tables))
    numbers = [joining.add(table) for table in tables]
    sources = JoinedSources(tables, joining.own)
    stretches = Stretches.of(_renumbered(tables, numbers))
    views = [table.views_at(slice(None)) for table in tables]
    table = Table.packed(sources, stretches, np.concatenate([np.empty(0, np.int8), *views]))
    part_S = np.repeat(np.arange(len(tables), dtype=np.int16), [len(own) for own in joining.own])
    return Joined(table, part_S, _repeated(table, joining.merged), tuple(joining.twins), _withdrawn(sources, part_S))


class _Joining:
    """The sources so far: only those whose content several stores have are looked at one by one."""

    def __init__(self, shared: NDArray[np.uint64]) -> None:
        self.own: list[Runs] = []
        """Of each store the sources that no earlier one has."""
        self.merged: set[int] = set()
        self.twins: list[tuple[int, int]] = []
        self._shared, self._count = shared, 0
        self._content, self._described = np.empty(0, DIGEST), np.empty(0, DIGEST)
        self._number = np.empty(0, np.int64)
        """Of sources of the stores so far whose content is shared, in the order in which they are numbered."""

    def add(self, table: Table) -> NDArray[np.int32]:
        """Take in a store's sources; return the number of each."""
        mine, content, described = self._of_shared(table)
        there = _first(self._described, described)
        new = np.ones(len(table.sources), np.bool_)
        new[mine[there >= 0]] = False
        number = (np.cumsum(new, dtype=np.int32) - new + np.int32(self._count)).astype(np.int32)
        number[mine[there >= 0]] = self._number[there[there >= 0]]
        self.merged.update(self._number[there[there >= 0]].tolist())
        fresh = np.flatnonzero(there < 0)
        order = np.argsort(self._content, kind="stable")
        low, high = (np.searchsorted(self._content, content[fresh], side, sorter=order) for side in ("left", "right"))
        for place in np.flatnonzero(high > low).tolist():
            same = np.sort(order[low[place] : high[place]])
            its_number = int(number[mine[fresh[place]]])
            self.twins += [(other, its_number) for other in self._number[same].tolist()]
        self._count += int(new.sum())
        # Now only: two files of one store are none of our business.
        self._content = np.concatenate([self._content, content[fresh]])
        self._described = np.concatenate([self._described, described[fresh]])
        self._number = np.concatenate([self._number, number[mine[fresh]]])
        self.own.append(Runs.like(np.flatnonzero(new)))
        return number

    def _of_shared(self, table: Table) -> tuple[Ints, Digests, Digests]:
        """Return the sources whose content other stores have: numbers, contents, and all that tells of each."""
        numbers, contents, described = [np.empty(0, np.int64)], [digests(())], [digests(())]
        first = 0
        for columns in table.source_columns(*SOURCE_FIELDS) if len(self._shared) else ():
            content = columns[SOURCE_FIELDS.index("content_hash")]
            mine = np.flatnonzero(among(short_hashes(content), self._shared))
            numbers.append(first + mine)
            contents.append(digests(content[i] for i in mine.tolist()))
            described.append(digests("\0".join(str(column[i]) for column in columns) for i in mine.tolist()))
            first += len(content)
        return np.concatenate(numbers), np.concatenate(contents), np.concatenate(described)


def _first(values_n: Digests, asked_q: Digests) -> Ints:
    """Return the first place of each value, -1 where it is not there."""
    if not len(values_n):
        return np.full(len(asked_q), -1, np.int64)
    order = np.argsort(values_n, kind="stable")
    place = order[np.minimum(np.searchsorted(values_n, asked_q, sorter=order), len(order) - 1)]
    place[values_n[place] != asked_q] = -1
    return place


def _shared_contents(tables: Sequence[Table]) -> NDArray[np.uint64]:
    """Return hashes of the contents that sources of two stores have; unreadable and withdrawn ones do not count."""
    every = []
    for table in tables:
        hashes = [np.empty(0, np.uint64)]
        for contents, errors in table.source_columns("content_hash", "error"):
            told = zip(contents, errors, strict=True)
            hashes.append(short_hashes(content for content, error in told if content and not error))
        every.append(_each_once(np.concatenate(hashes)))
        del hashes
    together = np.concatenate(every)
    every.clear()
    together.sort()
    return _each_once(together[1:][together[1:] == together[:-1]])


def _each_once(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return hashes in their order, each once; `np.unique` would hold a table of them."""
    hashes.sort()
    once: NDArray[np.uint64] = hashes[np.r_[True, hashes[1:] != hashes[:-1]][: len(hashes)]]
    return once


def _renumbered(tables: Sequence[Table], numbers: Sequence[NDArray[np.int32]]) -> Iterator[Chunk]:
    """Yield the rows of all tables, whose sources have these numbers."""
    for table, number in zip(tables, numbers, strict=True):
        for start in range(0, len(table.stretches), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(table.stretches)))
            source, frame = table.stretches.at(rows)
            yield number[source], frame.astype(np.int32), table.views_at(rows)


def _repeated(table: Table, merged: set[int]) -> Ints:
    if not merged:
        return np.empty(0, np.int64)
    wanted = np.zeros(len(table.sources), np.bool_)
    wanted[list(merged)] = True
    rows = np.asarray(table.stretches.rows_of(wanted))
    columns = (table.views_at(rows), *reversed(table.stretches.at(rows)))
    order = np.lexsort(columns)  # stable: of equal rows the earliest comes first
    again = np.logical_and.reduce([column[order][1:] == column[order][:-1] for column in columns])
    return np.sort(rows[order[1:][again]])


def _withdrawn(sources: JoinedSources, part_S: NDArray[np.int16]) -> Ints:
    """Return the sources whose content another store names as withdrawn."""
    stones: dict[str, set[int]] = {}
    for number, content, error in _contents(sources):
        if error == WITHDRAWN:
            stones.setdefault(content, set()).add(int(part_S[number]))
    if not stones:
        return np.empty(0, np.int64)
    found = [
        number
        for number, content, error in _contents(sources)
        if not error and stones.get(tombstone(content), set()) - {int(part_S[number])}
    ]
    return np.array(found, np.int64)


def _contents(sources: JoinedSources) -> Iterator[tuple[int, str, str]]:
    first = 0
    for contents, errors in sources.columns("content_hash", "error"):
        yield from zip(range(first, first + len(contents)), contents, errors, strict=True)
        first += len(contents)
