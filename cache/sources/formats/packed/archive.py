"""Read the members of archives through the readers of their own formats, from memory."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import Contents, Described, Reader
from usjepa.cache.sources.formats.packed.members import ENDINGS, INSIDE, Archive, is_archive
from usjepa.cache.sources.formats.packed.memory import MemoryFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.sources.base import Box, FileFacts

_UNREAD = "of a kind that is not read"
_HEADERS = (".mhd", ".nhdr")
"""Endings of files whose samples lie beside them under the same name."""
_ENOUGH_NBYTES = 4096
"""By which a file without an ending is recognised."""


class ArchiveReader(Reader):
    """Read `x.zip::folder/a.png`, and `x.zip::a.h5::images`; keep the last member in memory."""

    name = "archive"
    version = 2
    title = "an archive"
    endings = ENDINGS
    container = True
    tells_patient = True
    reader_of: ClassVar[Callable[[Path], type[Reader] | None]]
    """Finds the reader of a file; the registry, which knows this class, sets it."""

    def __init__(self) -> None:
        self._readers: dict[str, Reader] = {}
        self._member: tuple[Path, str, MemoryFiles, Path] | None = None
        self._archive: tuple[Path, tuple[int, int], Archive] | None = None

    def images(self, file: Path) -> Sequence[str]:
        """Return the paths of all files in an archive, sorted."""
        self._forget()
        return sorted(self._opened(file).sizes())

    def doubts(self, file: Path) -> Mapping[str, str]:
        """Return which of them no reader takes; those without an ending are looked into."""
        return {name: _UNREAD for name in self.images(file) if self._kind(file, name) is None}

    def inside(self, file: Path, member: str) -> Contents:
        """Return what a container within the archive holds."""
        reader, path = self._unpacked(file, member)
        described: Mapping[str, Described] = reader.described(path)
        return Contents(list(reader.images(path)), dict(reader.doubts(path)), dict(described))

    def patient_of(self, file: Path, member: str) -> str:
        """Return what a member says of its patient."""
        reader, path = self._unpacked(file, member)
        return reader.patient(path) if reader.tells_patient else ""

    def probe(self, file: Path, image: str) -> FileFacts:
        """Decode all frames of a member and return its facts."""
        if not image:
            self._forget()
            held = len(self._opened(file).sizes())
            raise ValueError(f"none of its {held:,} files is of a kind that is read")
        self._member = None
        reader, path, inner = self._located(file, image)
        return reader.probe(path, inner)

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames of a member."""
        reader, path, inner = self._located(file, image)
        yield from reader.frames(path, inner, wanted)

    def boxes(self, file: Path, image: str) -> Sequence[Box]:
        """Return the parts of a member's frames that it says hold images."""
        reader, path, inner = self._located(file, image)
        return reader.boxes(path, inner)

    def _located(self, file: Path, image: str) -> tuple[Reader, Path, str]:
        """Return the reader of a member, its path in memory, and the image within it."""
        member, _, inner = image.partition(INSIDE)
        return (*self._unpacked(file, member), inner)

    def _unpacked(self, file: Path, member: str) -> tuple[Reader, Path]:
        if is_archive(member):
            raise ValueError("an archive within an archive; unpack the outer one")
        if self._member is None or self._member[:2] != (file, member):
            self._member = None  # two members need not fit into memory
            self._readers = {}
            files = MemoryFiles()
            path = files.add(PurePosixPath(member).name, self._opened(file).pieces(member))
            for other in self._beside(file, member):
                files.add(PurePosixPath(other).name, self._opened(file).pieces(other))
            self._member = (file, member, files, path)
        path = self._member[3]
        kind = type(self).reader_of(path)
        if kind is None:
            raise ValueError(f"{member} is {_UNREAD}")
        return self._readers.setdefault(kind.name, kind()), path

    def _beside(self, file: Path, member: str) -> list[str]:
        """Return the members that may hold the samples of a header."""
        if not member.lower().endswith(_HEADERS):
            return []
        stem = f"{member.rpartition('.')[0]}."
        return [name for name in self._opened(file).sizes() if name.startswith(stem) and name != member]

    def _kind(self, file: Path, member: str) -> type[Reader] | None:
        safe_point()
        name = PurePosixPath(member).name
        if "." in name.strip(".") and not name.rpartition(".")[2].isdigit():
            return type(self).reader_of(Path(name))
        if self._opened(file).leads_nowhere(member):
            return None
        files = MemoryFiles()
        first = next(iter(self._opened(file).pieces(member)), b"")
        return type(self).reader_of(files.add(name, [first[:_ENOUGH_NBYTES]]))

    def _opened(self, file: Path) -> Archive:
        found = file.stat()
        stamp = (found.st_size, found.st_mtime_ns)
        if self._archive is None or self._archive[:2] != (file, stamp):
            self._forget()
            self._archive = (file, stamp, Archive(file))
        return self._archive[2]

    def _forget(self) -> None:
        if self._archive is not None:
            self._archive[2].close()
        self._archive = self._member = None
        self._readers = {}
