"""Does a clip's container say it is longer than the file? Then the file was cut short on its way.

Decoders don't tell: they hand out the frames that are there and stop, or fill the rest of the last one with what was
there before. The frame counts of headers don't tell either, since they are wrong in whole files too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path


def cut_short(path: Path) -> str | None:
    """Return why the file can't be whole, None when nothing speaks against it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] == b"ftyp":
            return _boxes_past_the_end(file, size)
        if head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:8], "little") + 8
            return _told(declared, size) if declared > size else None
        if head[:3] == b"GIF":
            return _lacks_gif_trailer(file, size)
    return None


def _told(declared: int, size: int) -> str:
    return f"it is cut short: it should hold {declared:,} bytes and holds {size:,}"


def _boxes_past_the_end(file: BinaryIO, size: int) -> str | None:
    """Walk the top-level boxes of an MP4 or MOV file (ISO 14496-12: 4 bytes size, 4 bytes type)."""
    start = 0
    kinds = set()
    while start + 8 <= size:
        file.seek(start)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:  # the size did not fit: it stands in the 8 bytes after the type
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # the box reaches to the end of the file
            length = size - start
        if length < 8:
            return None  # no box: trailing bytes, which players ignore
        if start + length > size:
            return _told(start + length, size)
        kinds.add(header[4:8])
        start += length
    return None if b"moov" in kinds else "it is cut short: it holds no table of its frames (no moov box)"


def _lacks_gif_trailer(file: BinaryIO, size: int) -> str | None:
    """Look for the byte 0x3B that ends a GIF; some writers pad behind it with zeros."""
    file.seek(max(0, size - 4096))
    tail = file.read().rstrip(b"\0")
    return None if tail.endswith(b"\x3b") else "it is cut short: the byte that ends a GIF is missing"
