"""Reader of DICOM: single and multi-frame, uncompressed (either byte order), RLE, JPEG and JPEG 2000.

Frames are decoded one at a time from the open file, so memory does not grow with the clip. YBR becomes RGB, palettes
are looked up, MONOCHROME1 is inverted (0 is black afterwards), deeper samples follow `depth.py`. Only pixel attributes
(group 0028) are parsed, and nothing but pixels leaves the reader: no name, date or number of a patient.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels

from usjepa.cache.sources.base import FileFacts, reading, require_ascending, unreadable
from usjepa.cache.sources.depth import Span, needs_span, span_of, to_uint8

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_KIND = "DICOM"

# Files that break the letter of the standard are common and readable; and the warnings that pydicom would print
# otherwise quote the values they complain about.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


class DicomReader:
    """Reads DICOM files through pydicom."""

    name = "dicom"
    version = 1

    def __init__(self) -> None:
        self._span: tuple[Path, Span] | None = None

    def probe(self, path: Path) -> FileFacts:
        """Decode every frame and return the facts; SourceError when that fails or the file holds no image."""
        count = 0
        shape: tuple[int, int] | None = None
        for frame in self._stored(path, None, Dataset()):
            shape, count = shape or frame.shape[:2], count + 1
        if shape is None:
            raise unreadable(path, _KIND, "it holds no frames")
        for _ in self.frames(path, [0]):
            pass  # palettes and photometric interpretations that can't be shown are found out here
        return FileFacts(count, *shape)

    def frames(self, path: Path, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames in 8 bits, grey or RGB."""
        require_ascending(path, wanted)
        attributes = Dataset()
        for frame in self._stored(path, wanted, attributes):
            span = self._span_of(path) if _is_deep(frame, attributes) else None
            with reading(path, _KIND):
                shown = _shown(frame, attributes, span)
            yield shown

    def _stored(self, path: Path, wanted: Sequence[int] | None, attributes: Dataset) -> Iterator[NDArray[Any]]:
        """Yield frames as stored, palettes not looked up; fills `attributes` with the pixel attributes."""
        if wanted is not None and not wanted:
            return  # an empty list of indices means all of them to pydicom
        with reading(path, _KIND), path.open("rb") as file:
            frames = iter_pixels(file, ds_out=attributes, indices=wanted)
            while (frame := _next_quietly(frames)) is not None:
                yield frame

    def _span_of(self, path: Path) -> Span:
        """Return the span of the whole file, remembered for the file that is being read."""
        if self._span is None or self._span[0] != path:
            with reading(path, _KIND):
                self._span = (path, span_of(self._stored(path, None, Dataset())))
        return self._span[1]


def _next_quietly(frames: Iterator[NDArray[Any]]) -> NDArray[Any] | None:
    """Return the next frame, None after the last, without pydicom's warnings: they may quote what a file says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return next(frames, None)


def _is_deep(frame: NDArray[Any], attributes: Dataset) -> bool:
    return attributes.get("PhotometricInterpretation") != "PALETTE COLOR" and needs_span(frame.dtype)


def _shown(frame: NDArray[Any], attributes: Dataset, span: Span | None) -> NDArray[np.uint8]:
    """Return a stored frame as a viewer without window or level would show it."""
    photometric = attributes.get("PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(frame, attributes)[..., :3]
        # Entries of 16 bits use their whole range (PS3.3 C.7.6.3.1.6): the upper byte is the colour.
        return np.asarray(colours >> 8 if colours.dtype == np.uint16 else colours, dtype=np.uint8)
    shown = to_uint8(frame.astype(np.bool_) if attributes.get("BitsStored") == 1 else frame, span)
    return np.asarray(255 - shown, dtype=np.uint8) if photometric == "MONOCHROME1" else shown
