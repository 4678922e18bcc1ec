"""Find the reader of a file, built in or added by another package.

A package adds a reader by an entry point of the group `usjepa.readers` whose value is its class; a program adds
one for itself by `register`. Two readers can't share a name or an ending.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.plain_files import require_plain
from usjepa.cache.sources.base import PHANTOM, Reader
from usjepa.cache.sources.formats.arrays.hdf5 import Hdf5Reader
from usjepa.cache.sources.formats.arrays.matlab import MatlabReader
from usjepa.cache.sources.formats.arrays.numpy_files import NpyReader, NpzReader
from usjepa.cache.sources.formats.arrays.uff import UffReader
from usjepa.cache.sources.formats.arrays.zarr_stores import ZarrReader
from usjepa.cache.sources.formats.dicom.reader import DicomReader
from usjepa.cache.sources.formats.images import ImageReader
from usjepa.cache.sources.formats.packed.archive import ArchiveReader
from usjepa.cache.sources.formats.packed.members import INSIDE, is_archive
from usjepa.cache.sources.formats.packed.parquet import ParquetReader
from usjepa.cache.sources.formats.video import VideoReader
from usjepa.cache.sources.formats.volumes.metaimage import MetaImageReader
from usjepa.cache.sources.formats.volumes.nifti import NiftiReader
from usjepa.cache.sources.formats.volumes.nrrd import NrrdReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_GROUP = "usjepa.readers"
"""Entry point group in which packages name their readers."""
_BUILT_IN: tuple[type[Reader], ...] = (
    *(ImageReader, VideoReader, DicomReader),
    *(NiftiReader, MetaImageReader, NrrdReader),
    *(Hdf5Reader, NpyReader, NpzReader, MatlabReader, UffReader, ZarrReader),
    *(ParquetReader, ArchiveReader),
)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_ENDING = re.compile(r"(\.[^./\\:\sA-Z]+)+")
_PARTS = ("name", "version", "title", "endings", "container", "recognises", "images", "probe", "frames")

_registered: list[type[Reader]] = []


def register(reader: type[Reader]) -> None:
    """Add a reader to this process and to the child processes in which it decodes.

    The class must lie at the top of a module that a new process can import. To add a reader for every process, also
    those of a cluster, name it in an entry point of the group `usjepa.readers` instead.

    Raises:
        UsageError: its name or an ending is not valid or already taken, or no new process could import it.
    """
    if reader in _registered:
        return
    if reader.__module__ == "__main__" or "." in reader.__qualname__:
        raise UsageError(
            f"reader {reader.__qualname__} of {reader.__module__}: a decoding process can't import it. Move the class "
            "to the top of a module of its own."
        )
    _by_name([*readers().values(), reader])
    _registered.append(reader)
    readers.cache_clear()
    _by_ending.cache_clear()


def registered() -> list[str]:
    """Return the readers that `register` added, as `module:Class`, for another process to register."""
    return [f"{reader.__module__}:{reader.__qualname__}" for reader in _registered]


@cache
def readers() -> Mapping[str, type[Reader]]:
    """Return all readers by name: built-in ones, those of entry points, those registered.

    Raises:
        UsageError: the reader of a package can't be imported, is not valid, or takes what belongs to another.
    """
    return _by_name([*_BUILT_IN, *_installed(), *_registered])


def reader_named(name: str) -> type[Reader]:
    """Return the reader of that name; UsageError where there is none."""
    if name not in readers():
        raise UsageError(
            f"there is no reader called {name!r}; there are {', '.join(sorted(readers()))}. "
            "Install the package that provides it."
        )
    return readers()[name]


def reader_of_file(file: Path) -> type[Reader] | None:
    """Return the reader of a file, by its ending, or by its first bytes where it has none; None where none fits."""
    ending = ending_of(file.name)
    if ending.lower() in _by_ending():
        return _by_ending()[ending.lower()]
    # Archives name files after UIDs, whose last number looks like an ending: 1.2.840.113619.2.5
    if (ending and not ending[1:].isdigit()) or not _is_plain(file):
        return None
    return next((reader for reader in readers().values() if reader.recognises(file)), None)


ArchiveReader.reader_of = staticmethod(reader_of_file)


def reader_of_path(path: str) -> type[Reader] | None:
    """Return the reader of a source's path: that of its file, or of the archive that the file lies in."""
    return reader_of_file(Path(split_path(path)[0]))


def reader_of_member(path: str) -> type[Reader] | None:
    """Return the reader that in the end decodes a source's path, one in an archive too, by endings alone."""
    file, image = split_path(path)
    reader = _by_ending().get(ending_of(PurePosixPath(file).name).lower())
    return reader_of_member(image) if reader is ArchiveReader and image else reader


def source_file(path: str) -> str:
    """Return the file of a source's path: that in the archive, where it lies in one."""
    file, image = split_path(path)
    return join_path(file, split_path(image)[0]) if image and is_archive(file) else file


def folders_of(path: str) -> str:
    """Return the path of a source's file as it would be unpacked: an archive counts as the folder of its name."""
    file = source_file(path)
    archive, inside, member = file.partition(INSIDE)
    return f"{without_ending(archive)}/{member}" if inside and is_archive(archive) else file


def _is_plain(file: Path) -> bool:
    try:
        require_plain(file)
    except OSError:
        return False  # nothing suggests that it is an image
    return True


def ending_of(name: str) -> str:
    """Return the ending of a file's name, as it is written: the longest that a reader takes, else the last one."""
    endings = PurePosixPath(name).suffixes
    joined = ["".join(endings[start:]) for start in range(len(endings))]
    return next((ending for ending in joined if ending.lower() in _by_ending()), joined[-1] if joined else "")


def without_ending(path: str) -> str:
    """Return a file's path without the ending that a reader takes; any other stays, a UID's last number above all."""
    ending = ending_of(PurePosixPath(path).name)
    return path[: -len(ending)] if ending.lower() in _by_ending() and len(ending) < len(path) else path


def accepted() -> str:
    """Return which files are read, for messages."""
    return f"{', '.join(sorted(_by_ending()))}, and DICOM files without an ending"


def split_path(path: str) -> tuple[str, str]:
    """Return (file, image within it) of a source's path; the image is empty where none is named.

    Only the endings of containers are followed by an image: `a.h5::x` names one, `odd::name.png` does not.
    """
    for mark in re.finditer("::", path):
        reader = _by_ending().get(ending_of(path[: mark.start()]).lower())
        if reader is not None and reader.container:
            return path[: mark.start()], path[mark.end() :]
    return path, ""


def join_path(file: str, image: str) -> str:
    """Return the path of a source: the file's own, or that of an image within it."""
    return f"{file}::{image}" if image else file


@cache
def _by_ending() -> dict[str, type[Reader]]:
    return {ending: reader for reader in readers().values() for ending in reader.endings}


def _installed() -> Iterable[type[Reader]]:
    """Yield the readers that installed packages name, in the order of their names."""
    for point in sorted(entry_points(group=_GROUP), key=lambda point: point.name):
        try:
            yield point.load()
        except Exception as error:  # importing another package's module can raise anything
            package = point.dist.name if point.dist is not None else "an installed package"
            raise UsageError(
                f"the reader {point.name!r} of {package} can't be imported ({point.value}: {error}). "
                "Mend the package or uninstall it."
            ) from error


def _by_name(found: Iterable[type[Reader]]) -> dict[str, type[Reader]]:
    """Return readers by name; UsageError where one is not valid or takes another's name or ending."""
    names: dict[str, type[Reader]] = {}
    endings = {".csv": "manifests"}
    for reader in found:
        if not isinstance(reader, type) or not all(hasattr(reader, part) for part in _PARTS):
            raise UsageError(f"{reader}: not the class of a reader; it needs {', '.join(_PARTS)}.")
        who = f"reader {reader.__qualname__} of {reader.__module__}"
        if not _NAME.fullmatch(reader.name):
            raise UsageError(f"{who}: the name {reader.name!r} has other characters than a-z, 0-9, - and _.")
        if reader.name == PHANTOM or reader.name in names:
            raise UsageError(f"{who}: another reader is called {reader.name!r} already.")
        for ending in reader.endings:
            if not _ENDING.fullmatch(ending):
                raise UsageError(f"{who}: the ending {ending!r} is not a dot followed by lower-case characters.")
            if ending in endings:
                raise UsageError(f"{who}: the ending {ending!r} belongs to {endings[ending]} already.")
            endings[ending] = f"reader {reader.name!r}"
        names[reader.name] = reader
    return names
