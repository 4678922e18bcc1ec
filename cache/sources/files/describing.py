"""Ask a file by itself which images it holds, and whose it is."""

from __future__ import annotations

from pathlib import Path

from usjepa.cache.sources.base import Contents
from usjepa.cache.sources.files.failing import naming, refuse_odd
from usjepa.cache.sources.formats.packed.archive import ArchiveReader
from usjepa.cache.sources.registry import reader_named, split_path


def images_in(file: Path, reader: str) -> Contents:
    """Return what a container's file holds; SourceError when it can't be read."""
    container = reader_named(reader)()
    located, member = split_path(str(file))
    with naming(str(file), Path(located), member, container.title):
        refuse_odd(Path(located), reader)
        if isinstance(container, ArchiveReader) and member:
            return container.inside(Path(located), member)
        return Contents(list(container.images(file)), dict(container.doubts(file)), dict(container.described(file)))


def patient_in(file: Path, reader: str) -> str:
    """Return what a file itself says of its patient, "" for nothing; SourceError when it can't be read."""
    opened = reader_named(reader)()
    located, member = split_path(str(file))
    with naming(str(file), Path(located), member, opened.title):
        refuse_odd(Path(located), reader)
        if isinstance(opened, ArchiveReader):
            return opened.patient_of(Path(located), member)
        return opened.patient(file)
