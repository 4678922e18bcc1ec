"""Which reader decodes which file: by the name's ending, and for files without one by DICOM's magic bytes."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.inside import HDF5_ENDINGS

if TYPE_CHECKING:
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Reader

PHANTOM = "phantom"
"""Name of the built-in source and of its reader."""

ENDINGS: dict[str, str] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), "images"),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mpeg", ".mpg", ".gif"), "video"),
    **dict.fromkeys((".dcm", ".dicom"), "dicom"),
    **dict.fromkeys(HDF5_ENDINGS, "hdf5"),
}
ACCEPTED = f"{', '.join(sorted(ENDINGS))}, and DICOM files without an ending"

_MAGIC_AT = 128


def kind_of(file: Path) -> str | None:
    """Return the name of the reader for a file, None when no reader takes it."""
    ending = PurePosixPath(file.name).suffix.lower()
    if ending in ENDINGS:
        return ENDINGS[ending]
    # Archives name files after UIDs, whose last number looks like an ending: 1.2.840.113619.2.5
    without = not ending or ending[1:].isdigit()
    return "dicom" if without and file.name != "DICOMDIR" and _is_dicom(file) else None


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAGIC_AT + 4)[_MAGIC_AT:] == b"DICM"
    except OSError:
        return False  # whatever it is, nothing says that it is an image


def reader_for(name: str, settings: CacheSettings) -> Reader:
    """Return a new reader of that name; decoders are imported only when they are used. Settings: the phantom's."""
    if name == "images":
        from usjepa.cache.sources.images import ImageReader

        return ImageReader()
    if name == "video":
        from usjepa.cache.sources.video import VideoReader

        return VideoReader()
    if name == "dicom":
        from usjepa.cache.sources.dicom import DicomReader

        return DicomReader()
    if name == "hdf5":
        from usjepa.cache.sources.hdf5 import Hdf5Reader

        return Hdf5Reader()
    if name == PHANTOM:
        from usjepa.cache.sources.phantom.source import PhantomReader

        return PhantomReader(settings.phantom)
    raise UsageError(
        f"no reader is called {name!r}; there are {', '.join(sorted(set(ENDINGS.values())))} and {PHANTOM}."
    )
