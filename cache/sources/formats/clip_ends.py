"""Find out whether a clip was cut short, from the structure of its container.

Decoders don't notice: they return the frames that are there and stop, or fill the rest of the last one with the frame
before. Frame counts of headers don't help, since they are wrong in whole files too, and neither does a length that a
program wrote before it knew it. So what is asked is whether the last piece of the file is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

_UNKNOWN = (0, 0xFFFFFFFF)
"""Lengths that a RIFF writer leaves behind which can't go back: into a pipe, or after a crash."""


def cut_short(file: Path) -> str | None:
    """Return why a clip can't be whole, None when nothing speaks against it."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(12)
        if head[4:8] == b"ftyp":
            return _boxes_past_the_end(opened, size)
        if head[:4] == b"RIFF":
            return _chunks_past_the_end(opened, 0, size)
        if head[:3] == b"GIF":
            return _gif_past_the_end(opened, size)
    return None


def _shortfall(declared: int, size: int) -> str:
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
            return _shortfall(start + length, size)
        kinds.add(header[4:8])
        start += length
    return None if b"moov" in kinds else "it is cut short: it holds no table of its frames (no moov box)"


def _chunks_past_the_end(file: BinaryIO, start: int, size: int) -> str | None:
    """Walk the chunks of an AVI file: 4 bytes type, 4 bytes size, low byte first, an odd one padded to even.

    Where the size of a list is unknown, its members tell where it ends; where it reaches past the end of the file, the
    list is whole only if the index that follows it is there.
    """
    missing = None
    while start + 8 <= size:
        file.seek(start)
        header = file.read(12)
        kind, length = header[:4], int.from_bytes(header[4:8], "little")
        if not all(32 <= byte < 127 for byte in kind):
            return None  # no chunk: trailing bytes, which players ignore
        past_the_end = start + 8 + length > size
        if kind == b"RIFF" or (kind == b"LIST" and (length in _UNKNOWN or past_the_end)):
            if kind == b"LIST" and length not in _UNKNOWN:
                missing = _shortfall(start + 8 + length, size)
            start += 12
            continue
        if past_the_end:
            return _shortfall(start + 8 + length, size)
        if kind == b"idx1":
            missing = None
        start += 8 + length + length % 2
    return missing


def _gif_past_the_end(file: BinaryIO, size: int) -> str | None:
    """Walk the blocks of a GIF up to the byte that ends it; what lies behind that, or is no block, players ignore."""
    file.seek(0)
    data = file.read(size)
    place = 13 + _table(data[10:11])
    while place < size:
        introducer = data[place]
        if introducer == 0x21:  # an extension: its label, then blocks
            place = _blocks(data, place + 2)
        elif introducer == 0x2C:  # an image: its frame, a table of colours, the width of a code, then blocks
            place = _blocks(data, place + 10 + _table(data[place + 9 : place + 10]) + 1)
        elif introducer == 0:  # padding between blocks
            place += 1
        else:  # 0x3B, the end
            return None
    return _shortfall(place + 1, size) if place > size else None


def _table(flags: bytes) -> int:
    """Return the bytes of the table of colours that the flags of a GIF announce."""
    return 3 << (flags[0] % 8 + 1) if flags and flags[0] & 0x80 else 0


def _blocks(data: bytes, place: int) -> int:
    """Return the place behind blocks of up to 255 bytes, which one of 0 bytes ends; past the end where they are cut."""
    while place < len(data) and data[place]:
        place += data[place] + 1
    return place + 1
