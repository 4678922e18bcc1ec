"""Find the region of a clip once, from frames spread over all of it.

A region depends on the source alone: which frames are looked at follows from their number. So it is the same in every
shard, process and part of a build.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from usjepa.cache.errors import SourceError
from usjepa.cache.frames.lit import Look, is_one_scene, look_at
from usjepa.cache.frames.marks import largest_channel
from usjepa.cache.frames.regions import Region, find_region, plausible, region_in_boxes, region_of, with_text
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.sources.files.reader import SourceReader

_LOOKS = 8
"""Frames of a clip that are looked at."""
_REMEMBERED = 64
"""Sources whose regions are kept: shards of a clip follow each other."""


class SourceRef(NamedTuple):
    """A source, as it takes to read it."""

    path: str
    reader: str
    content_hash: str
    height: int
    """Pixels of every frame, as the scan found."""
    width: int
    frames: int
    """Number of decoded frames, as the scan found."""


class ClipRegions:
    """Find and remember the regions of sources. Belongs to one thread."""

    def __init__(self, reader: SourceReader, seek_text: bool) -> None:
        """Take the frames from this reader; look for marks like text in regions, or not."""
        self._reader, self._seek_text = reader, seek_text
        self._found: dict[tuple[str, str], Region | None] = {}

    def of(self, source: SourceRef, before_frame: Callable[[str], None]) -> Region | None:
        """Return the region that all frames of a source share; None where each has its own.

        Args:
            source: of one frame, or several: a clip, or a stack of images that may have nothing in common.
            before_frame: called with the source's path before each frame that is looked at; may raise to stop.

        Raises:
            SourceError: as `SourceReader.frames`, `region` and `boxes`.
        """
        key = (source.path, source.content_hash)
        if key not in self._found:
            self._keep(key, self._shared(source, before_frame))
        return self._found[key]

    def know(self, source: SourceRef, region: Region | None) -> None:
        """Take over what another one found; see `of`."""
        self._keep((source.path, source.content_hash), region)

    def _keep(self, key: tuple[str, str], region: Region | None) -> None:
        while len(self._found) >= _REMEMBERED:
            del self._found[next(iter(self._found))]
        self._found[key] = region

    def alone(self, frame: NDArray[np.uint8]) -> Region:
        """Return the region of a frame whose source has no shared one."""
        region = find_region(frame)
        return with_text(region, [frame]) if self._seek_text else region

    def _shared(self, source: SourceRef, before_frame: Callable[[str], None]) -> Region | None:
        mask = self._reader.region(source.path, source.height, source.width)
        given = None if mask is None else Region(mask, "given")
        boxes = plausible(self._reader.boxes(source.path, source.reader), source.height, source.width)
        if source.frames == 1 and given is None and not boxes:
            return None
        looks: list[list[Look]] = []
        numbers, mean = sampled(source.frames), np.zeros((source.height, source.width), np.float32)
        brightest = np.zeros((source.height, source.width), np.uint8)
        frames = self._reader.frames(source.path, source.reader, numbers, source.content_hash)
        for number, frame in zip(numbers, frames, strict=True):
            before_frame(source.path)
            require_size(source, number, frame)
            looks.append(
                [look_at(frame), *(look_at(frame[box.top : box.bottom, box.left : box.right]) for box in boxes)]
            )
            if self._seek_text:
                grey = largest_channel(frame)
                mean += grey.astype(np.float32) / len(numbers)
                np.maximum(brightest, grey, out=brightest)
        whole, *parts = zip(*looks, strict=True)
        if given is None and not is_one_scene(whole):
            return None
        region = given or region_of(whole, source.height, source.width)
        if given is None and boxes:
            region = region_in_boxes(boxes, parts, region)
        # What is burned into all of them stays while echo averages out; what is burned into some is brightest there.
        return with_text(region, [np.rint(mean).astype(np.uint8), brightest]) if self._seek_text else region


def sampled(frames: int) -> Sequence[int]:
    """Return the numbers of the frames of a clip that are looked at: the first, the last, the others evenly between."""
    return sorted({round(number) for number in np.linspace(0, frames - 1, min(frames, _LOOKS)).tolist()})


def require_size(source: SourceRef, number: int, frame: NDArray[np.uint8]) -> None:
    """Refuse a frame of another size: its views were drawn for the scanned one, and would be cut from a part of it."""
    height, width = frame.shape[:2]
    if (height, width) != (source.height, source.width):
        raise SourceError(
            f"{shown_name(source.path)}: frame {number} is {height}x{width} pixels, the scan found "
            f"{source.height}x{source.width}. Replace or remove the file, or leave it out with --on-error skip."
        )
