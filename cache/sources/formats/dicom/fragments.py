"""Sort the fragments of encapsulated pixels into frames."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

from usjepa.cache.sources.formats.dicom.streams import HEAD_NBYTES, begins_image, is_video, syntax_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Place = tuple[int, int]
"""Where bytes lie in a file, and how many."""
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_RLE = "1.2.840.10008.1.2.5"


def encapsulated_frames(file: BinaryIO, declared: int, syntax: str, size: int) -> list[list[Place]]:
    """Return the fragments of each frame, from a file of `size` bytes that stands at the first item.

    The first item is a table of offsets, often empty, sometimes wrong: what the fragments hold tells more.

    Raises:
        ValueError: the file ends before its pixels do, or holds fewer frames than declared and has no end.
    """
    fragments, ended = [], False
    for place, nbytes in _fragments(file, size):
        ended = nbytes < 0
        fragments += [(place, nbytes)] if nbytes > 0 else []
    if not fragments:
        raise ValueError("it holds no frames")
    frames = list(_frames(file, fragments, declared, syntax))
    if not ended and not 0 < declared <= len(frames) and not is_video(syntax):
        raise ValueError("it is cut short: its pixels have no end")
    return frames


def head_of(file: BinaryIO, frame: list[Place]) -> bytes:
    """Return the first bytes of a frame's stream."""
    place, nbytes = frame[0]
    file.seek(place)
    return file.read(min(nbytes, HEAD_NBYTES))


def cut_short(found: int, wanted: int, what: str) -> str:
    """Return what to say of bytes that are missing."""
    return f"it is cut short: its {what} should hold {wanted:,} bytes and hold {max(found, 0):,}"


def _fragments(file: BinaryIO, size: int) -> Iterator[Place]:
    """Yield the fragments, and (place, -1) at their end (PS3.5, A.4)."""
    first = True
    while head := file.read(8):
        if len(head) < 8:
            return
        group, element, nbytes = struct.unpack("<HHL", head)
        if (group, element) == _END:
            yield file.tell(), -1
            return
        if (group, element) != _ITEM or nbytes == _UNDEFINED:
            raise ValueError("its compressed pixels are not in fragments as DICOM has them")
        place = file.tell()
        if place + nbytes > size:
            raise ValueError(cut_short(size - place, nbytes, "last fragment"))
        if not first:
            yield place, nbytes
        first = False
        file.seek(place + nbytes)


def _frames(file: BinaryIO, fragments: list[Place], declared: int, syntax: str) -> Iterator[list[Place]]:
    """Yield the fragments of each frame: a frame begins where a codec's stream begins, else with every fragment."""
    heads = [head_of(file, [(place, min(nbytes, 12))]) for place, nbytes in fragments]
    begins = [begins_image(head) for head in heads]
    if not any(begins):
        # RLE has one fragment a frame (PS3.5, A.4.2); of other streams only a single frame can be told apart.
        if is_video(syntax_of(heads[0], syntax)) or (declared == 1 and syntax != _RLE):
            yield fragments
        else:
            yield from ([fragment] for fragment in fragments)
        return
    frame: list[Place] = []
    for fragment, new in zip(fragments, begins, strict=True):
        if new and frame:
            yield frame
            frame = []
        frame.append(fragment)
    yield frame
