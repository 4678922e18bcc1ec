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

_BOXES = set(b"ftyp moov mdat free skip wide moof mfra uuid meta sidx ssix styp emsg prft pnot udta".split())
"""Types of boxes at the top of an MP4 or MOV file; a cut falls into one of these."""
_EBML = b"\x1aE\xdf\xa3"
_ASF = b"0&\xb2u"
_SYNC, _PACKET_NBYTES = b"G", 188
"""How each packet of an MPEG transport stream begins, and its length."""
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
"""Elements of Matroska that hold others, and may be of unknown length: all bits set."""


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
        if head[:4] == _EBML:
            return _elements_past_the_end(opened, size)
        if head[:4] == _ASF:
            return _objects_past_the_end(opened, size)
        if head[:1] == _SYNC:
            return _packet_past_the_end(opened, size)
    return None


def _packet_past_the_end(file: BinaryIO, size: int) -> str | None:
    """Look whether a transport stream ends with a whole packet (ISO 13818-1); a cut between two is not seen."""
    file.seek(0)
    packets = file.read(3 * _PACKET_NBYTES)
    if len(packets) < 3 * _PACKET_NBYTES or packets[::_PACKET_NBYTES] != 3 * _SYNC or not size % _PACKET_NBYTES:
        return None
    return _shortfall(-(-size // _PACKET_NBYTES) * _PACKET_NBYTES, size)


def _shortfall(declared: int, size: int) -> str:
    return f"it is cut short: it should hold {declared:,} bytes and holds {size:,}"


def _boxes_past_the_end(file: BinaryIO, size: int) -> str | None:
    """Walk the top-level boxes of an MP4 or MOV file (ISO 14496-12: 4 bytes size, 4 bytes type)."""
    start = 0
    kinds: set[bytes] = set()
    while start + 8 <= size:
        file.seek(start)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:  # the size did not fit: it stands in the 8 bytes after the type
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # the box reaches to the end of the file
            length = size - start
        if length < 8 or (header[4:8] not in _BOXES and kinds >= {b"moov", b"mdat"}):
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
    missing, whole = None, 0
    while start + 8 <= size:
        file.seek(start)
        header = file.read(12)
        kind, length = header[:4], int.from_bytes(header[4:8], "little")
        past_the_end = start + 8 + length > size
        if not all(32 <= byte < 127 for byte in kind) or (start == whole > 0 and kind != b"RIFF" and past_the_end):
            return None  # no chunk: trailing bytes, which players ignore
        if kind == b"RIFF" and not past_the_end:
            whole = start + 8 + length
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


def _elements_past_the_end(file: BinaryIO, size: int) -> str | None:
    """Walk the elements of a Matroska or WebM file (RFC 8794: an identifier, a length, each of 1 to 8 bytes).

    Segments and clusters are walked into, since a length that a writer could not go back to fill in stays unknown.
    """
    start = 0
    while start < size:
        file.seek(start)
        head = file.read(12)
        id_nbytes = _length_of(head)
        length_nbytes = _length_of(head[id_nbytes:])
        head_nbytes = id_nbytes + length_nbytes
        if not id_nbytes or not length_nbytes or id_nbytes > 4 or len(head) < head_nbytes:
            return None  # no element: trailing bytes, which players ignore
        kind = int.from_bytes(head[:id_nbytes], "big")
        bits = 7 * length_nbytes
        length = int.from_bytes(head[id_nbytes:head_nbytes], "big") & ((1 << bits) - 1)
        inside = kind in (_SEGMENT, _CLUSTER)
        is_known = not inside or length != (1 << bits) - 1
        if is_known and start + head_nbytes + length > size:
            return _shortfall(start + head_nbytes + length, size)
        start += head_nbytes + (0 if inside else length)
    return None


def _length_of(head: bytes) -> int:
    """Return of how many bytes a number of EBML is, from the zeros that lead it; 0 where it is none."""
    return 9 - head[0].bit_length() if head and head[0] else 0


def _objects_past_the_end(file: BinaryIO, size: int) -> str | None:
    """Walk the objects of a WMV file (ASF: 16 bytes kind, 8 bytes size, low byte first)."""
    start = 0
    while start + 24 <= size:
        file.seek(start)
        length = int.from_bytes(file.read(24)[16:], "little")
        if length < 24:
            return None
        if start + length > size:
            return _shortfall(start + length, size)
        start += length
    return None


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
