"""Give the frames of a volume that is held in memory as a whole."""

from __future__ import annotations

import math
from abc import abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.base import FileFacts, Reader, Spacing, over_black
from usjepa.cache.sources.formats.depth import Span, needs_span, span_of, to_uint8
from usjepa.cache.sources.formats.plausible import require_frame, require_room

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_SMALLEST_EDGE = 16
"""Pixels below which an axis counts something else than rows or columns."""
_COLOURS = (3, 4)


class Volume(NamedTuple):
    """The samples of a file."""

    frames: NDArray[Any]
    """[N, H, W] or [N, H, W, C], C 3 or 4."""
    spacing: Spacing | None
    inverted: bool = False
    """Whether 0 is white: the header says that larger samples stand for smaller values."""


class VolumeReader(Reader):
    """Keep the last volume; a class for a format says how one is loaded."""

    def __init__(self) -> None:
        self._held: tuple[Path, tuple[int, int], Volume, Span | None] | None = None

    @abstractmethod
    def load(self, file: Path) -> Volume:
        """Return the volume of a file; may raise anything."""

    def probe(self, file: Path, image: str = "") -> FileFacts:
        """Load the whole volume and return its facts."""
        del image
        self._held = None
        volume, _ = self._volume(file)
        count, height, width = volume.frames.shape[:3]
        return FileFacts(count, height, width, spacing=volume.spacing)

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames in 8 bits, grey or RGB."""
        del image
        volume, span = self._volume(file)
        for number in wanted:
            if number >= len(volume.frames):
                raise ValueError(f"it has {len(volume.frames)} frames, none with number {number}")
            frame = to_uint8(volume.frames[number], span)
            if volume.inverted and frame.ndim == 2:
                frame = np.asarray(255 - frame, np.uint8)
            yield over_black(frame) if frame.ndim == 3 and frame.shape[2] == 4 else frame

    def _volume(self, file: Path) -> tuple[Volume, Span | None]:
        found = file.stat()
        stamp = (found.st_size, found.st_mtime_ns)
        if self._held is None or self._held[:2] != (file, stamp):
            self._held = None  # two volumes need not fit into memory
            volume = self.load(file)
            span = span_of(volume.frames) if needs_span(volume.frames.dtype) else None
            self._held = (file, stamp, volume, span)
        return self._held[2], self._held[3]


def stacked(samples: NDArray[Any]) -> NDArray[Any]:
    """Return [N, H, W] or [N, H, W, C] of samples whose last axes are rows and columns, or rows, columns, colours.

    Colours are a last axis of 3 or 4 behind rows and columns of at least 16. Raises ValueError for other shapes.
    """
    colours = samples.ndim > 3 and samples.shape[-1] in _COLOURS
    edges = samples.shape[-3:-1] if colours else samples.shape[-2:]
    if len(edges) < 2 or min(edges) < _SMALLEST_EDGE:
        raise ValueError(
            f"its axes, the slowest first, are {list(samples.shape)}: no frames of at least {_SMALLEST_EDGE} rows and "
            "columns, which are the axes that run fastest"
        )
    return samples.reshape(-1, *samples.shape[-3 if colours else -2 :])


def require_volume(shape: Sequence[int], pixel_nbytes: int, file: Path) -> None:
    """Raise ValueError where a header claims more than its file can hold; `shape` begins with width and height."""
    if any(edge < 1 for edge in shape) or len(shape) < 2:
        raise ValueError(f"its header claims axes of {list(shape)}")
    require_frame(shape[1], shape[0])
    require_room(math.prod(shape) * pixel_nbytes, file)


def library(name: str, package: str, title: str) -> Any:
    """Return a module of the extra `volumes`; UsageError, which stops a scan whatever `on_error` says, without it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{title} needs the package {package} ({error}): pip install 'usjepa[volumes]', or leave such files out."
        ) from error
