"""Hold what a scan must know of a store's sources, as columns.

A source takes 53 bytes, in temporary files when they are many: names and contents are held as digests, groups as
shorter ones, and what a scan found is numbered, as many sources are alike. Text of a few is read from the tables again.

Shape suffixes: n readable sources of the store, L images of a scan, q of those that are asked for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.places.digests import DIGEST, among, digests, last_place, order_of
from usjepa.cache.places.spill import Spill, spilled
from usjepa.cache.scanning.scanned import source_names
from usjepa.cache.scanning.splits import group_hashes
from usjepa.cache.sources.base import FileFacts, Spacing
from usjepa.cache.sources.files.stamps import name_of
from usjepa.cache.sources.patients import comparable, group_key
from usjepa.cache.sources.splits import TEST, canonical
from usjepa.cache.store.columns import batches
from usjepa.cache.store.origins.segment_tables import open_sources, sources_in_batches
from usjepa.cache.store.tables import WITHDRAWN, SourceTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.places.digests import Digests
    from usjepa.cache.scanning.scanned import Scanned
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

IS_TEST, IS_DICOM, IS_COMPARABLE, IS_PARTIAL = 1, 2, 4, 8
"""Of a source: its split is test; its reader is that of DICOM; its group was named with the secret of this process; its
tables do not tell all that a scan finds of a new source (built before spacing was kept, or frames are compared now)."""
ENOUGH_LEVELS = 256
"""What is built was taken for an image; tables do not say how many grey levels it has."""
_READ = ("dataset", "path", "content_hash", "error", "group", "split", "reader", "frames", "height", "width")
_LENGTHS = ("spacing_down", "spacing_across")
_BATCH = 1 << 14
"""Lines of a table that are unpacked at a time."""
_COLUMNS = {
    "name": DIGEST, "content": DIGEST, "group": np.dtype(np.uint64), "flags": np.dtype(np.uint8),
    "facts": np.dtype(np.int32),
}  # fmt: skip


class KnownSources:
    """The sources of segments."""

    def __init__(self, storage: Storage, segments: Sequence[Segment], hashed: bool = False) -> None:
        """Read the tables; with `hashed`, a scan wants of new clips what no table has."""
        self._storage, self._segments = storage, segments
        self.withdrawn: set[str] = set()
        """Tombstones of contents that were removed from the store, and never join it again."""
        self.unscaled = False
        """Whether there are segments of which no source has a spacing."""
        self._facts: list[tuple[str, FileFacts]] = []
        unreadable = [np.empty(0, DIGEST)]
        added = {column: Spill() for column in _COLUMNS}
        codes: dict[tuple[Any, ...], int] = {}
        for segment in segments:
            bare = _is_unscaled(storage, segment)
            self.unscaled |= bare
            with open_sources(storage, segment) as file:
                for columns in batches(SourceTable, file, (*_READ, *_LENGTHS), lines=_BATCH):
                    unreadable.append(self._add(added, columns, IS_PARTIAL if hashed or bare else 0, codes))
        order = order_of(added["content"].array(DIGEST))
        self.line_n = spilled(order)
        """[n] which of the tables' readable sources each is; here they are ordered by content."""
        found = {column: spilled(added.pop(column).array(dtype)[order]) for column, dtype in _COLUMNS.items()}
        self.group_n, self.flags_n = found["group"], found["flags"]
        """[n] hash of each one's group, and what it is: IS_TEST and so on."""
        self._content_n, self._facts_n = found["content"], found["facts"]
        order = order_of(found["name"])
        self._named_n, self._name_n = spilled(order), spilled(found["name"][order])
        self._unreadable = np.unique(np.concatenate(unreadable))

    def __len__(self) -> int:
        return len(self.line_n)

    def _add(
        self, added: dict[str, Spill], columns: list[NDArray[Any]], partial: int, codes: dict[tuple[Any, ...], int]
    ) -> Digests:
        """Take in sources of a table; return the names of those that have no rows as they could not be read."""
        error = columns[_READ.index("error")]
        fine = error == ""
        dataset, path, content, _, group, split, reader, *found = (column[fine].tolist() for column in columns)
        flags = [
            partial + IS_TEST * _is_test(side) + (_is_dicom(stamp) and IS_DICOM + IS_COMPARABLE * comparable(name))
            for side, stamp, name in zip(split, reader, group, strict=True)
        ]
        told = zip(reader, *found[:3], *map(_texts, found[3:]), strict=True)
        values = {
            "name": source_names(dataset, path), "content": digests(content), "group": group_hashes(dataset, group),
            "flags": flags, "facts": [codes.setdefault(facts, len(codes)) for facts in told],
        }  # fmt: skip
        for column, dtype in _COLUMNS.items():
            added[column].add_array(np.asarray(values[column], dtype))
        self._facts += [_facts(*told) for told in itertools.islice(codes, len(self._facts), None)]
        self.withdrawn.update(columns[_READ.index("content_hash")][error == WITHDRAWN].tolist())
        return source_names(columns[0][~fine].tolist(), columns[1][~fine].tolist())

    def named(self, names_q: Digests) -> NDArray[np.int32]:
        """Return which source bears each name, -1 where none does, int32 [q]."""
        place = last_place(self._name_n, names_q)
        if not len(self):
            return place.astype(np.int32)
        return np.where(place < 0, np.int32(-1), self._named_n[place])

    def holding(self, contents_q: Digests) -> NDArray[np.int32]:
        """Return a source of each content, the last one, -1 where none has it, int32 [q]."""
        return last_place(self._content_n, contents_q).astype(np.int32)

    def content(self, numbers: NDArray[np.integer[Any]]) -> Digests:
        """Return the contents of sources."""
        contents: Digests = self._content_n[numbers]
        return contents

    def could_not_be_read(self, names_q: Digests) -> Flags:
        """Return which names are of sources that have no rows because they could not be read, bool [q]."""
        return among(names_q, self._unreadable)

    def any_holding(self, contents_q: Digests, which_n: Flags) -> Flags:
        """Return of which contents any of some sources is, bool [q]."""
        before = np.zeros(len(self) + 1, np.int32)
        np.cumsum(which_n, out=before[1:])
        low, high = self._range(contents_q)
        found: Flags = before[high] > before[low]
        return found

    def facts(self, content_hash: str, reader: str, version: int) -> FileFacts | None:
        """Return what the tables have of a content, whatever its path; None where they do not know it."""
        wanted, stamp = digests([content_hash]), reader if version == 1 else f"{reader}:{version}"
        low, high = (int(place[0]) for place in self._range(wanted))
        told = (self._facts[code] for code in self._facts_n[low:high][::-1].tolist())
        return next((facts for known, facts in told if known == stamp), None)

    def _range(self, contents_q: Digests) -> tuple[Ints, Ints]:
        """Return where the sources of each content begin and end, [q] each."""
        return np.searchsorted(self._content_n, contents_q), np.searchsorted(self._content_n, contents_q, "right")

    def groups(self, numbers: Ints) -> dict[int, tuple[str, str]]:
        """Return dataset and name of the groups of some sources, by their numbers; the tables are read."""
        found: dict[int, tuple[str, str]] = {}
        numbers = numbers[np.argsort(self.line_n[numbers])]
        lines = self.line_n[numbers]
        first = 0
        for segment in self._segments if len(numbers) else ():
            for dataset, group, error in sources_in_batches(self._storage, segment, "dataset", "group", "error"):
                fine = [place for place, why in enumerate(error) if not why]
                low, high = np.searchsorted(lines, (first, first + len(fine)))
                for number, line in zip(numbers[low:high].tolist(), lines[low:high].tolist(), strict=True):
                    place = fine[line - first]
                    found[number] = group_key(dataset[place], group[place])
                first += len(fine)
        return found


@lru_cache(maxsize=4096)
def _is_test(split: str) -> bool:
    return canonical(split) == TEST


@lru_cache(maxsize=4096)
def _is_dicom(stamp: str) -> bool:
    return name_of(stamp) == "dicom"


def _texts(lengths: list[float]) -> list[float | None]:
    """Return lengths, None for those that are not known: they are compared."""
    return [None if length != length else length for length in lengths]


def _facts(
    stamp: str, frames: int, height: int, width: int, down: float | None, across: float | None
) -> tuple[str, FileFacts]:
    known = None if down is None or across is None else Spacing(down, across)
    return stamp, FileFacts(frames, height, width, ENOUGH_LEVELS, known)


def _is_unscaled(storage: Storage, segment: Segment) -> bool:
    """Return whether no source of a segment has a spacing."""
    with open_sources(storage, segment) as file:
        return all(np.isnan(down).all() for (down,) in batches(SourceTable, file, ("spacing_down",)))


@dataclass(frozen=True)
class Compared:
    """The images of a scan beside the sources of a store."""

    built_L: NDArray[np.int32]
    """[L] which source of the store each is by its name, -1 for none."""
    failed_L: Flags
    """[L] whether it can't be read."""
    unread_L: Flags
    """[L] whether it still can't be read, and the store has that recorded."""
    held_h: Ints
    """[h] those that are no source of the store by their name, and whose content it has, ascending."""
    content_h: Digests
    """[h] their contents."""
    edited: int | None
    """The first one that is built and had another content then; None where none is."""

    @classmethod
    def of(cls, scanned: Scanned, known: KnownSources) -> Compared:
        """Compare the images of a scan with what is known, some at a time."""
        count = int((~scanned.imageless).sum())
        built, failed, unread = np.empty(count, np.int32), np.empty(count, np.bool_), np.empty(count, np.bool_)
        held, contents = [np.empty(0, np.int64)], [digests(())]
        first, edited = 0, None
        for part in scanned.parts():
            here = slice(first, first + len(part.name_q))
            found = built[here] = known.named(part.name_q)
            failed[here] = part.failed_q
            unread[here] = part.failed_q & known.could_not_be_read(part.name_q)
            had = np.flatnonzero(found >= 0)
            differ = had[known.content(found[had]) != part.content_q[had]]
            if edited is None and len(differ):
                edited = first + int(differ[0])
            known_here = np.flatnonzero((found < 0) & (known.holding(part.content_q) >= 0))
            held.append(first + known_here)
            contents.append(part.content_q[known_here])
            first = here.stop
        return cls(built, failed, unread, np.concatenate(held), np.concatenate(contents), edited)
