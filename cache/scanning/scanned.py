"""Hold what a scan finds of every source, packed, and give it as tables.

Shape suffixes: n sources of the listing, L those that hold an image, q some of these.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.lazy import lazy
from usjepa.cache.places.digests import digests
from usjepa.cache.places.packed import Packed, fields_of
from usjepa.cache.scanning.changes import taken_frames
from usjepa.cache.scanning.splits import group_hashes, in_test_groups
from usjepa.cache.sources.base import Entry, FileFacts
from usjepa.cache.sources.files.stamps import stamp_of
from usjepa.cache.sources.splits import TEST
from usjepa.cache.store.tables import SourceTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.places.digests import Digests
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.scanning.changes import Hashes
    from usjepa.cache.scanning.journal import Key

    Ints = NDArray[np.int64]

_STORED = [name for name in Entry.__dataclass_fields__ if name not in ("grouped_by", "region")]
"""Fields of an entry that are columns of the table."""
_BATCH = 1 << 14
"""Lines of a table that is one of several."""


class Line(NamedTuple):
    """What a scan finds of one source."""

    content_hash: str
    """Empty where the file can't even be hashed."""
    facts: FileFacts
    error: str
    """Why it can't be read; empty where it can."""
    imageless: bool = False
    """Whether it can be read, and holds no image."""
    fresh: Key | None = None
    """What the journal is to know it by, where it was decoded just now; not held."""


def packed_lines(lines: Iterable[Line] = ()) -> Packed[Line]:
    """Return lines as a sequence that holds millions of them."""
    facts = ("frames", "height", "width", "levels", "spacing", "hashes")
    return Packed(_line, ("content_hash", "error", "imageless", *(f"facts.{name}" for name in facts)), lines)


def _line(content_hash: str, error: str, imageless: bool, *facts: Any) -> Line:
    return Line(content_hash, FileFacts(*facts), error, imageless)


class Part(NamedTuple):
    """Some of the sources that hold an image, as columns."""

    name_q: Digests
    """See `source_names`."""
    content_q: Digests
    failed_q: NDArray[np.bool_]
    """Whether each can't be read."""


class Scanned:
    """Every source of a listing, also those that hold no image, and the splits that the recipe gives them."""

    def __init__(self, entries: Sequence[Entry], lines: Sequence[Line], settings: CacheSettings) -> None:
        self._entries, self._lines, self._settings = entries, lines, settings
        self.imageless = np.fromiter((no for (no,) in fields_of(lines, "imageless")), np.bool_, len(lines))
        """[n] which hold no image: they have no frames, and the reason as their error."""
        codes: dict[str, int] = {}
        code_n = np.empty(len(entries), np.int32)
        self._group_n, self._marked_n = np.empty(len(entries), np.uint64), np.empty(len(entries), np.bool_)
        first = 0
        for told in _parts(fields_of(entries, "dataset", "group", "split")):
            dataset, group, split = zip(*told, strict=True)
            here = slice(first, first + len(told))
            code_n[here] = [codes.setdefault(name, len(codes)) for name in dataset]
            self._group_n[here] = group_hashes(dataset, group)
            self._marked_n[here] = [side == TEST for side in split]
            first = here.stop
        self._test_n = in_test_groups(code_n, self._group_n, self._marked_n, settings.test_fraction)

    @lazy
    def hashes(self) -> Hashes:
        """Of clips that were decoded; empty unless the recipe compares frames."""
        told = zip(
            fields_of(self._lines, "content_hash", "facts.hashes"), fields_of(self._entries, "reader"), strict=True
        )
        return {(content, stamp_of(reader)): hashes for (content, hashes), (reader,) in told if hashes is not None}

    @lazy
    def table(self) -> SourceTable:
        """A line per source, also of those without an image."""
        return self._joined(np.ones(len(self._lines), np.bool_))

    @property
    def images(self) -> SourceTable:
        """The table without them."""
        return self._joined(~self.imageless)

    def chosen(self, images_q: Ints) -> Iterator[SourceTable]:
        """Yield the tables of some images, ascending, some at a time."""
        return self._tables(self._which(images_q))

    def _which(self, images_q: Ints) -> NDArray[np.bool_]:
        is_wanted_L = np.zeros(np.count_nonzero(~self.imageless), np.bool_)
        is_wanted_L[images_q] = True
        wanted_n = ~self.imageless
        wanted_n[wanted_n] = is_wanted_L
        return wanted_n

    def unhashed(self, images_q: Ints) -> Ints:
        """Return the places in the listing of those of some images that were read, and have no hashes."""
        told = zip(fields_of(self._lines, "content_hash", "error"), fields_of(self._entries, "reader"), strict=True)
        without = (not error and (content, stamp_of(reader)) not in self.hashes for (content, error), (reader,) in told)
        return np.flatnonzero(self._which(images_q) & np.fromiter(without, np.bool_, len(self._lines)))

    def updated(self, places: Ints, again: Scanned) -> Scanned:
        """Return it with what another scan found of the sources at some places, ascending, all of which are images."""
        is_again_n = np.zeros(len(self._lines), np.bool_)
        is_again_n[places] = True
        found = iter(again._lines)
        lines = zip(self._lines, is_again_n.tolist(), strict=True)
        merged = (next(found)._replace(imageless=False) if is_again else line for line, is_again in lines)
        return Scanned(self._entries, packed_lines(merged), self._settings)

    @property
    def left_out(self) -> list[str]:
        """Why each of those without an image is left out."""
        return [error for error, imageless in fields_of(self._lines, "error", "imageless") if imageless]

    def contents(self) -> Iterator[str]:
        """Yield the content hash of each image."""
        told = fields_of(self._lines, "content_hash", "imageless")
        return (content for content, imageless in told if not imageless)

    @property
    def groups(self) -> NDArray[np.uint64]:
        """The group of each image, see `group_hashes`."""
        return self._group_n[~self.imageless]

    @property
    def marked(self) -> NDArray[np.bool_]:
        """Which images the data itself marks `test`."""
        return self._marked_n[~self.imageless]

    def parts(self) -> Iterator[Part]:
        """Yield the images, some at a time."""
        every = zip(
            fields_of(self._entries, "dataset", "path"),
            fields_of(self._lines, "content_hash", "error", "imageless"),
            strict=True,
        )
        told = ((*source, content, error) for source, (content, error, imageless) in every if not imageless)
        for part in _parts(told):
            datasets, paths, contents, errors = zip(*part, strict=True)
            failed = np.array([error != "" for error in errors], np.bool_)
            yield Part(source_names(datasets, paths), digests(contents), failed)

    def _joined(self, wanted_n: NDArray[np.bool_]) -> SourceTable:
        """Return the table of some sources."""
        return SourceTable.joined([_source_table((), (), self._settings), *self._tables(wanted_n)])

    def _tables(self, wanted_n: NDArray[np.bool_]) -> Iterator[SourceTable]:
        first = 0
        for part in _parts(zip(self._entries, self._lines, strict=True)):
            here = np.flatnonzero(wanted_n[first : first + len(part)])
            if len(here):
                chosen = [part[i] for i in here.tolist()]
                table = _source_table([entry for entry, _ in chosen], [line for _, line in chosen], self._settings)
                table.split[self._test_n[first + here]] = TEST
                yield table
            first += len(part)


def source_names(datasets: Iterable[str], paths: Iterable[str]) -> Digests:
    """Return the digests of the names of sources, which are told apart by dataset and path."""
    return digests(f"{dataset}\0{path}" for dataset, path in zip(datasets, paths, strict=True))


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield some of the values at a time."""
    upcoming = iter(values)
    while part := list(islice(upcoming, _BATCH)):
        yield part


def _source_table(entries: Sequence[Entry], lines: Sequence[Line], settings: CacheSettings) -> SourceTable:
    described = {name: _strings(getattr(entry, name) for entry in entries) for name in _STORED}
    described["reader"] = _strings(stamp_of(entry.reader) for entry in entries)
    return SourceTable(
        **described,
        content_hash=_strings(line.content_hash for line in lines),
        frames=np.array([line.facts.frames for line in lines], dtype=np.int32),
        height=np.array([line.facts.height for line in lines], dtype=np.int32),
        width=np.array([line.facts.width for line in lines], dtype=np.int32),
        error=_strings(line.error for line in lines),
        spacing_down=_lengths(line.facts.spacing.down if line.facts.spacing else np.nan for line in lines),
        spacing_across=_lengths(line.facts.spacing.across if line.facts.spacing else np.nan for line in lines),
        passed_over=np.array([_passed_over(line.facts, settings) for line in lines], dtype=np.int32),
    )


def _passed_over(facts: FileFacts, settings: CacheSettings) -> int:
    """Return how many frames of a source are passed over; 0 for one whose rows the store has already."""
    return 0 if facts.hashes is None else taken_frames(facts.frames, facts.hashes, settings).passed_over


def _lengths(values: Iterable[float]) -> NDArray[np.float64]:
    return np.array(list(values), dtype=np.float64)


def _strings(values: Iterable[str]) -> NDArray[np.object_]:
    return np.array(list(values), dtype=object)
