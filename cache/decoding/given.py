"""Describe frames that one process decodes, for another that cuts rows from them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.frames.regions import Region
from usjepa.cache.frames.text import Line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.frames.clips import SourceRef
    from usjepa.cache.frames.rows import Frames


class Stream:
    """Goes through the frames of one source after the other, as they are asked for in parts."""

    def __init__(self, reader: Frames) -> None:
        """Take the frames from this reader."""
        self._reader = reader
        self._of: tuple[SourceRef, tuple[int, ...], int] | None = None
        """Source, the frames wanted of it, and how many of these were given."""
        self._left: Iterator[tuple[int, NDArray[np.uint8]]] = iter(())

    def take(
        self, source: SourceRef, wanted: Sequence[int], start: int, count: int
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (number, frame) of `count` of the wanted frames, from the `start`-th; raises as the reader does."""
        if self._of != (source, tuple(wanted), start):
            frames = self._reader.frames(source.path, source.reader, wanted, source.content_hash)
            self._left = itertools.islice(zip(wanted, frames, strict=True), start, None)
        self._of = None
        yield from itertools.islice(self._left, count)
        if start + count >= len(wanted):
            next(self._left, None)  # has the reader say whether that was all
        self._of = source, tuple(wanted), start + count


def described(
    frames: Sequence[NDArray[np.uint8]], region: Region | None, error: str
) -> tuple[dict[str, Any], list[memoryview]]:
    """Return a message about frames, and the bytes behind it: of the frames, and of their shared region's mask."""
    behind = [np.ascontiguousarray(frame).reshape(-1).data for frame in frames]
    message: dict[str, Any] = {"frames": [frame.shape for frame in frames], "region": None, "failed": error}
    if region is not None:
        behind.append(np.packbits(region.mask).data)
        message["region"] = [region.mask.shape, region.origin, region.text]
    return message, behind


class Given:
    """Frames of one source that were decoded elsewhere; read by `cut_rows` as those of a reader are."""

    def __init__(self, message: dict[str, Any], behind: Sequence[bytearray]) -> None:
        """Take what `described` returned; `numbers` beside it says which frames they are."""
        shapes = message["frames"]
        decoded = [np.frombuffer(data, np.uint8).reshape(shape) for data, shape in zip(behind, shapes, strict=False)]
        self._frames = dict(zip(message["numbers"], decoded, strict=True))
        self.region: Region | None = None
        """That all frames of the source share; None where each has its own."""
        if message["region"] is not None:
            (height, width), origin, text = message["region"]
            mask = np.unpackbits(np.frombuffer(behind[-1], np.uint8), count=height * width).astype(np.bool_)
            self.region = Region(mask.reshape(height, width), origin, tuple(Line(*line) for line in text))

    def frames(self, path: str, reader: str, wanted: Sequence[int], content_hash: str) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames."""
        del path, reader, content_hash
        return (self._frames[number] for number in wanted)
