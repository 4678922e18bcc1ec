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


_SLOPE = "elementtointensityfunctionslope"
"""A negative one says that larger samples stand for smaller values; ITK leaves it alone."""


class MetaImageReader(VolumeReader):
    """Read MetaImage files; the samples of an `.mhd` belong to its content."""

    name = "metaimage"
    version = 2
    title = "MetaImage"
    endings = (".mha", ".mhd")

    def parts(self, file: Path) -> list[Path]:
        """Return the file of the samples, where it is another one."""
        samples = _samples(file)
        return [] if samples == file else [samples]

    def load(self, file: Path) -> Volume:
        """Return the volume; ValueError where its header is wrong, or its samples are cut short or elsewhere."""
        volume = load(file, _samples(file), "MetaImageIO", self.title)
        return volume._replace(inverted=float(_fields(_head(file)).get(_SLOPE, "1")) < 0)


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(HEAD_NBYTES)


def _fields(head: bytes) -> dict[str, str]:
    """Return the fields of a header up to the samples, names in lower case."""
    found = _SAMPLES.search(head)
    head = head[: found.start()] if found else head
    return {name.decode().lower(): value.decode(errors="replace") for name, value in _FIELD.findall(head)}


def _samples(file: Path) -> Path:
    """Return the file that holds the samples; ValueError where they lie in several, or not beside the header."""
    head = _head(file)
    found = _SAMPLES.search(head)
    if found is None:
        raise ValueError("its header names no ElementDataFile")
    name = found[1].decode(errors="replace")
    if name.upper() == "LOCAL":
        if _skipped(_fields(head)):
            raise ValueError("its HeaderSize is for samples in a file of their own, and they are in this one")
        _require_whole(file, _fields(head), found.end() + 1)
        return file
    if name.upper().startswith("LIST") or "%" in name:
        raise ValueError("its samples lie in several files; write it again as one .mha")
    samples = companion(file, name)
    _require_whole(samples, _fields(head), _skipped(_fields(head)))
    return samples


def _skipped(fields: dict[str, str]) -> int:
    """Return the bytes before the samples; -1 in the header says that the samples are what ends the file."""
    return max(int(fields.get("headersize", "0")), 0)


def _require_whole(samples: Path, fields: dict[str, str], start: int) -> None:
    """Raise ValueError where samples that are not compressed are fewer than the header says: ITK pads with zeros."""
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
