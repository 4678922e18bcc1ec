"""Read MetaImage files (.mha, .mhd with its .raw or .zraw) through SimpleITK."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from usjepa.cache.sources.formats.volumes.base import Volume, VolumeReader
from usjepa.cache.sources.formats.volumes.beside import companion
from usjepa.cache.sources.formats.volumes.itk import HEAD_NBYTES, load

if TYPE_CHECKING:
    from pathlib import Path

_SAMPLES = re.compile(rb"^ElementDataFile\s*=\s*(.*?)\s*$", re.MULTILINE)
_FIELD = re.compile(rb"^(\w+)\s*=\s*(.*?)\s*$", re.MULTILINE)


class MetaImageReader(VolumeReader):
    """Read MetaImage files; the samples of an `.mhd` belong to its content."""

    name = "metaimage"
    version = 1
    title = "MetaImage"
    endings = (".mha", ".mhd")

    def parts(self, file: Path) -> list[Path]:
        """Return the file of the samples, where it is another one."""
        samples = _samples(file)
        return [] if samples == file else [samples]

    def load(self, file: Path) -> Volume:
        """Return the volume; ValueError where its header is wrong, or its samples are cut short or elsewhere."""
        return load(file, _samples(file), "MetaImageIO", self.title)


def _samples(file: Path) -> Path:
    """Return the file that holds the samples; ValueError where they lie in several, or not beside the header."""
    with file.open("rb") as opened:
        head = opened.read(HEAD_NBYTES)
    found = _SAMPLES.search(head)
    if found is None:
        raise ValueError("its header names no ElementDataFile")
    name = found[1].decode(errors="replace")
    if name.upper() == "LOCAL":
        _require_whole(file, head[: found.start()], found.end() + 1)
        return file
    if name.upper().startswith("LIST") or "%" in name:
        raise ValueError("its samples lie in several files; write it again as one .mha")
    samples = companion(file, name)
    _require_whole(samples, head[: found.start()], 0)
    return samples


def _require_whole(samples: Path, head: bytes, start: int) -> None:
    """Raise ValueError where samples that are not compressed are fewer than the header says: ITK pads with zeros."""
    fields = {name.decode().lower(): value.decode(errors="replace") for name, value in _FIELD.findall(head)}
    if fields.get("compresseddata", "false").lower() == "true":
        return
    count = int(fields.get("elementnumberofchannels", "1"))
    for edge in fields.get("dimsize", "").split():
        count *= int(edge)
    nbytes = count * _ELEMENTS.get(fields.get("elementtype", "").upper(), 1)
    held = samples.stat().st_size - start
    if held < nbytes:
        raise ValueError(f"it is cut short: it should hold {nbytes:,} bytes of samples and holds {held:,}")


_ELEMENTS = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT", "MET_LONG", "MET_ULONG"), 4),
    **dict.fromkeys(("MET_DOUBLE", "MET_LONG_LONG", "MET_ULONG_LONG"), 8),
}
"""Bytes of a sample."""
