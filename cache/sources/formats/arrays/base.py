"""Read the images among a file's arrays as those of HDF5 are read."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.errors import NoImageError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import FileFacts, Reader, over_black
from usjepa.cache.sources.formats.arrays.sets import (
    Axes,
    Samples,
    axes_of,
    doubts_of,
    frame_of,
    image_sets,
    unwanted,
    without_images,
)
from usjepa.cache.sources.formats.depth import Span, needs_span, span_of, to_uint8
from usjepa.cache.sources.formats.plausible import require_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_FEWEST_AXES = 3
"""Axes below which an array that is no image is a table or a list: it is left out, no error."""


class Arrays(NamedTuple):
    """What a file holds, while it is open."""

    found: Mapping[str, Samples]
    close: Callable[[], object] = lambda: None
    """Called before another file is opened, and in a forked process before this one is opened again."""


class ArrayReader(Reader):
    """Keep the last file open; a class for a format says how one is opened.

    An array may have the attributes `spacing`, as `FileFacts` has it, `inverted`: whether 0 is white, `hidden`: values
    of what was never written, and `told`: whether its format says which axis counts frames.
    """

    container = True
    frames_apart = True

    def __init__(self) -> None:
        self._held: tuple[Path, int, Arrays] | None = None
        self._span: tuple[Path, str, Span] | None = None

    @abstractmethod
    def open(self, file: Path) -> Arrays:
        """Return the arrays of a file by name; may raise anything, above all where it claims more than it can hold."""

    def images(self, file: Path) -> list[str]:
        """Return the names of a file's arrays of images in codepoint order."""
        self._forget()
        return list(image_sets(self._found(file)))

    def doubts(self, file: Path) -> dict[str, str]:
        """Return which of them hold something else, by what their names and samples say."""
        return doubts_of(image_sets(self._found(file)))

    def probe(self, file: Path, image: str) -> FileFacts:
        """Read every frame and return the facts.

        Raises:
            NoImageError: a file of one array holds none of images.
            ValueError: `image` names no array of images.
        """
        self._forget()
        if not self.container:
            _require_image(self._found(file))
        item, axes = self._array(file, image)
        require_frame(axes.height, axes.width)
        for number in range(axes.frames):
            frame_of(item, axes, number)
            safe_point()
        if needs_span(item.dtype):
            self._span_of(file, image, item, axes)
        return FileFacts(axes.frames, axes.height, axes.width, spacing=getattr(item, "spacing", None))

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames in 8 bits, grey or RGB."""
        for number in wanted:
            item, axes = self._array(file, image)  # anew: between two frames the process may have forked
            if number >= axes.frames:
                raise ValueError(f"it has {axes.frames} frames, none with number {number}")
            span = self._span_of(file, image, item, axes) if needs_span(item.dtype) else None
            yield _shown(item, frame_of(item, axes, number), span)

    def _array(self, file: Path, image: str) -> tuple[Samples, Axes]:
        found = self._found(file)
        name = image if self.container else next(iter(found))
        if not name:
            doubts = doubts_of(image_sets(found))
            raise ValueError(unwanted(doubts) if doubts else without_images(found))
        axes = axes_of(found[name]) if name in found else None
        if axes is None and not self.container:
            raise ValueError(without_images(found))
        if axes is None:
            what = f": it is {found[name].dtype} {list(found[name].shape)}" if name in found else ""
            raise ValueError(f"it holds no array of images named {name!r}{what}")
        return found[name], axes

    def _found(self, file: Path) -> Mapping[str, Samples]:
        if self._held is None or self._held[:2] != (file, os.getpid()):
            self._forget()
            self._held = (file, os.getpid(), self.open(file))
        return self._held[2].found

    def _forget(self) -> None:
        if self._held is not None:
            self._held[2].close()
        self._held = None
        self._span = None

    def _span_of(self, file: Path, image: str, item: Samples, axes: Axes) -> Span:
        """Return the span of the whole array, remembered for the one that is being read."""
        if self._span is None or self._span[:2] != (file, image):
            frames = (_written(item, frame_of(item, axes, number)) for number in range(axes.frames))
            self._span = (file, image, span_of(frame for frame in frames if frame.size))
        return self._span[2]


def _shown(item: Samples, frame: NDArray[Any], span: Span | None) -> NDArray[np.uint8]:
    """Return a frame in 8 bits as its array is to be shown; what was never written is black."""
    hidden = _is_hidden(item, frame)
    if hidden is not None and span is not None:
        frame = np.where(hidden, frame.dtype.type(span.low), frame)
    picture = shown(to_uint8(frame, span))
    if getattr(item, "inverted", False):
        picture = np.asarray(255 - picture, np.uint8)
    return picture if hidden is None else np.where(hidden, np.uint8(0), picture)


def _written(item: Samples, frame: NDArray[Any]) -> NDArray[Any]:
    """Return the samples of a frame that were written, in one line where some were not."""
    hidden = _is_hidden(item, frame)
    return frame if hidden is None else frame[~hidden]


def _is_hidden(item: Samples, frame: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which samples of a grey frame were never written; None where all were."""
    values = getattr(item, "hidden", ())
    if not values or frame.ndim != 2:
        return None
    if frame.dtype.kind != "f":
        kept = np.iinfo(frame.dtype)
        values = [value for value in values if kept.min <= value <= kept.max]
    with np.errstate(over="ignore"):
        hidden = np.isin(frame, np.array(values, frame.dtype))
    return hidden if hidden.any() else None


def shown(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return [H, W] or [H, W, 3] of a frame as stored; what is transparent lies over black."""
    if frame.ndim == 3 and frame.shape[2] == 1:
        return frame[..., 0]
    return over_black(frame) if frame.ndim == 3 and frame.shape[2] == 4 else frame


def _require_image(found: Mapping[str, Samples]) -> None:
    """Raise NoImageError where the only array of a file holds no images; one of many axes is an error instead."""
    ((name, item),) = found.items()
    if axes_of(item) is None and len(item.shape) < _FEWEST_AXES:
        raise NoImageError(f"no images, {item.dtype} {list(item.shape)}")
    if reason := doubts_of(image_sets(found)).get(name):
        raise NoImageError(reason)


class Part:
    """An array whose parts are made when they are asked for; `make` gets a number along the first axis, or `()`."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        make: Callable[[Any], Any],
        spacing: object = None,
        inverted: bool = False,
        told: bool = False,
        hidden: Sequence[float] = (),
    ) -> None:
        self.shape, self.dtype, self._make, self.spacing, self.inverted = shape, dtype, make, spacing, inverted
        self.told, self.hidden = told, hidden

    def __getitem__(self, key: Any) -> Any:
        return self._make(key)
