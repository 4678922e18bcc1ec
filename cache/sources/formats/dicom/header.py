"""Read what a DICOM header says, also where its head names a wrong encoding."""

from __future__ import annotations

import io
import warnings
import zlib
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydicom.dataset import Dataset

_IN_EVERY_FILE = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Rows")
"""One of these is found in whatever was read as it is encoded."""
LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")
"""Value representations that pixels are written with; their lengths have 32 bits."""


def header_of(file: Path, tags: Sequence[str]) -> Dataset:
    """Return some attributes of a file; what pydicom raises on a file that is no DICOM.

    Pixels are read whatever syntax a head names wrongly: who is shown, and where, must not get lost beside them.
    """
    with warnings.catch_warnings(), file.open("rb") as opened:
        warnings.simplefilter("ignore")  # they quote the values that they complain about
        try:
            header = _read(opened, tags)
        except Exception:
            told = _of_bare(opened, tags)
            if told is None:
                raise
            return told
        if any(name in header for name in _IN_EVERY_FILE):
            return header
        return _of_bare(opened, tags) or header


def _of_bare(opened: BinaryIO, tags: Sequence[str]) -> Dataset | None:
    """Return what a data set says without the head that leads astray; None where it says nothing either."""
    bare = without_head(opened)
    try:
        header = None if bare is None else _read(bare, tags)
    except Exception:  # noqa: BLE001 - pydicom raises any type there is; what is wrong as it stands is told
        return None
    return header if header is not None and any(name in header for name in _IN_EVERY_FILE) else None


def _read(file: BinaryIO, tags: Sequence[str]) -> Dataset:
    import pydicom

    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=[*tags, *_IN_EVERY_FILE])


def without_head(file: BinaryIO) -> BinaryIO | None:
    """Return the data set of a file whose head names a wrong encoding, unpacked and without it; None: it has no head.

    The head is always explicit, low byte first (PS3.10, 7.1), so its end can be found, whatever length it names.
    """
    file.seek(128)
    if file.read(4) != b"DICM":
        return None
    place = 132
    while (element := file.read(8))[:2] == b"\x02\0" and len(element) == 8:
        length = int.from_bytes(element[6:8], "little")
        place += 8
        if element[4:6] in LONG_VRS:
            length = int.from_bytes(file.read(4), "little")
            place += 4
        place += length
        file.seek(place)
    file.seek(place)
    data = file.read()
    if data[:1] not in (b"\0", b"\x08"):
        try:
            data = zlib.decompress(data, -zlib.MAX_WBITS)
        except zlib.error:
            return None
    return io.BytesIO(data)
