"""Read NRRD files (.nrrd, .nhdr with its samples) through SimpleITK."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.errors import NoImageError
from usjepa.cache.sources.formats.volumes.base import Volume, VolumeReader
from usjepa.cache.sources.formats.volumes.beside import companion
from usjepa.cache.sources.formats.volumes.itk import HEAD_NBYTES, load

if TYPE_CHECKING:
    from pathlib import Path

_SEGMENT = "segment0_id"
"""Key that 3D Slicer writes into segmentations."""


class NrrdReader(VolumeReader):
    """Read NRRD files; the samples of an `.nhdr` belong to its content."""

    name = "nrrd"
    version = 2
    title = "NRRD"
    endings = (".nrrd", ".nhdr")

    def parts(self, file: Path) -> list[Path]:
        """Return the file of the samples, where it is another one."""
        samples = _samples(file, _fields(file))
        return [] if samples == file else [samples]

    def load(self, file: Path) -> Volume:
        """Return the volume.

        Raises:
            NoImageError: it is a segmentation.
            ValueError: its header is wrong, or its samples are elsewhere.
        """
        fields = _fields(file)
        if _SEGMENT in fields:
            raise NoImageError("a segmentation of 3D Slicer")
        listed = "list" in fields.get("kinds", "").lower().split()
        volume = load(file, _samples(file, fields), "NrrdImageIO", self.title, listed)
        return volume._replace(inverted=_falls(fields))


def _fields(file: Path) -> dict[str, str]:
    """Return the fields of a header, names in lower case; ValueError where it is none."""
    with file.open("rb") as opened:
        head = opened.read(HEAD_NBYTES)
    if not head.startswith(b"NRRD"):
        raise ValueError("its bytes are no NRRD")
    fields = {}
    for line in head.splitlines()[1:]:
        if not line.strip():
            break
        name, colon, value = line.decode(errors="replace").partition(":")
        if colon and not name.startswith("#"):
            fields[name.strip().lower()] = value.lstrip("=").strip()
    return fields


def _falls(fields: dict[str, str]) -> bool:
    """Return whether the values that the samples stood for fell from the smallest sample to the largest."""
    try:
        low, high = (float(fields.get(f"old {end}", fields.get(f"old{end}", "nan"))) for end in ("min", "max"))
    except ValueError as error:
        raise ValueError(f"its old min and old max are no numbers: {error}") from error
    return low > high


def _samples(file: Path, fields: dict[str, str]) -> Path:
    name = fields.get("data file", fields.get("datafile"))
    if name is None:
        return file
    if name.upper().startswith("LIST") or "%" in name:
        raise ValueError("its samples lie in several files; write it again as one .nrrd")
    return companion(file, name.removeprefix("./"))
