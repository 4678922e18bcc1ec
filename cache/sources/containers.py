"""Replace containers by the images in them; say which data sets are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.sources.base import Contents, Described, packed_entries
from usjepa.cache.sources.folders import split_of_file
from usjepa.cache.sources.formats.packed.archive import ArchiveReader
from usjepa.cache.sources.registry import join_path, reader_named, reader_of_member, source_file, split_path
from usjepa.cache.sources.splits import split_within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usjepa.cache.places.packed import Packed
    from usjepa.cache.sources.base import Entry

ImagesIn = Callable[[Sequence[tuple[Path, str]]], Sequence[Contents | None]]
"""(file, reader) of each -> what these containers hold; None for one that can't be read."""

_SHOWN = 5
"""Kinds of left-out data sets that a note names."""


class Expansion:
    """Replace containers by their images, and remember what of them was left out."""

    def __init__(self, images_in: ImagesIn, wanted: Sequence[str] | None) -> None:
        self._images_in, self._wanted = images_in, wanted
        self._left_out: Counter[str] = Counter()

    def __call__(self, root: Path, entries: Packed[Entry]) -> Packed[Entry]:
        """Return entries, a container replaced by its images; one that has none, or can't be opened, stays.

        Its probe then raises with the reason, under the same policy as for any other unreadable file.
        """
        files = {entry.path: entry.reader for entry in entries if _is_whole_container(entry)}
        if not files:
            return entries
        held = dict(zip(files, self._images_in([(root / file, reader) for file, reader in files.items()]), strict=True))
        return packed_entries(self._expanded(entries, held))

    def _expanded(self, entries: Iterable[Entry], held: Mapping[str, Contents | None]) -> Iterator[Entry]:
        for entry in entries:
            if entry.path not in held:
                yield entry
                continue
            contents = held[entry.path]
            names = [] if contents is None else self._chosen(contents)
            yield from [_image_of(entry, name, contents) for name in names] or [entry]

    def _chosen(self, held: Contents) -> list[str]:
        """Return those images of a file that the recipe names, or that look like images where it names none."""
        if self._wanted is not None:
            return [name for name in held.images if any(_matches(name, pattern) for pattern in self._wanted)]
        taken = [name for name in held.images if name not in held.doubts]
        if taken:  # else the file stays as it is, and its reason is told with it
            self._left_out.update(f"{_own_name(name)} ({reason})" for name, reason in held.doubts.items())
        return taken

    def notes(self) -> list[str]:
        """Return a note on what was left out, for the user; it names no file."""
        if not self._left_out:
            return []
        named = ", ".join(f"{count:,} {what}" for what, count in sorted(self._left_out.items())[:_SHOWN])
        more = f" and {len(self._left_out) - _SHOWN:,} other kinds" if len(self._left_out) > _SHOWN else ""
        return [f"data sets beside images were left out: {named}{more}. cache.hdf5 names others to take."]


def _image_of(entry: Entry, name: str, contents: Contents | None) -> Entry:
    """Return the entry of an image in a file, with what the file says of it.

    Its name may say the split, where nothing else does, `test/images`, and so may the file's, `test.h5`.
    """
    known = contents.described.get(name, Described()) if contents is not None else Described()
    return replace(
        entry,
        path=join_path(entry.path, name),
        label=known.label or entry.label,
        group=entry.group or known.group,
        split=entry.split or known.split or _split_of(name) or split_of_file(source_file(entry.path)),
        grouped_by=entry.grouped_by or ("a column of its file" if known.group else ""),
    )


def _split_of(name: str) -> str:
    """Return the split that the name of a data set says: among other words, or as short as a folder's may (`X_te`)."""
    if found := split_within(name):
        return found
    return next((split for part in reversed(name.split("/")) if (split := split_of_file(part))), "")


def _own_name(name: str) -> str:
    """Return the name of a data set without its groups; of numbered ones (rows, cells) what they are numbered in."""
    parts = name.split("/")
    while len(parts) > 1 and parts[-1].isdigit():
        parts.pop()
    return parts[-1]


def _is_whole_container(entry: Entry) -> bool:
    image = split_path(entry.path)[1]
    if image and entry.reader == ArchiveReader.name:
        inner = reader_of_member(image)
        return inner is not None and inner.container and inner is not ArchiveReader and not split_path(image)[1]
    return reader_named(entry.reader).container and not image


def _matches(name: str, pattern: str) -> bool:
    """Return whether a data set is meant by a name or glob: of its whole path, or of its own name."""
    return fnmatchcase(name, pattern.strip("/")) or fnmatchcase(name.rpartition("/")[2], pattern)
