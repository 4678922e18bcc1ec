"""Read DICOM, single and multi-frame, through pydicom: uncompressed, RLE, JPEG and JPEG 2000.

Frames are decoded one at a time from the open file, so memory does not grow with the clip. YBR becomes RGB, palettes
are looked up, MONOCHROME1 is inverted (0 is black afterwards), deeper samples follow `depth.py`. Only pixel attributes
(group 0028) are parsed, and nothing but pixels leaves the reader: no name, date or number of a patient.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.sources.base import FileFacts, Reader
from usjepa.cache.sources.formats.depth import Span, needs_span, span_of, to_uint8

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_MAGIC_AT = 128
"""Bytes before the letters DICM (PS3.10, 7.1)."""


class DicomReader(Reader):
    """Read DICOM files."""

    name = "dicom"
    version = 1
    title = "DICOM"
    endings = (".dcm", ".dicom")

    def __init__(self) -> None:
        import pydicom.config

        # Files that break the letter of the standard are common and readable; and the warnings that pydicom would
        # print otherwise quote the values they complain about.
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        self._span: tuple[Path, Span] | None = None

    @classmethod
    def recognises(cls, file: Path) -> bool:
        """Return whether a file begins as DICOM files do; a DICOMDIR does too, but holds no image."""
        if file.name == "DICOMDIR":
            return False
        try:
            with file.open("rb") as opened:
                return opened.read(_MAGIC_AT + 4)[_MAGIC_AT:] == b"DICM"
        except OSError:
            return False  # nothing suggests that it is an image

    def probe(self, file: Path, image: str = "") -> FileFacts:
        """Decode every frame and return the facts; ValueError when the file holds no image."""
        count = 0
        shape: tuple[int, int] | None = None
        for frame, _ in _stored(file, None):
            shape, count = shape or frame.shape[:2], count + 1
        if shape is None:
            raise ValueError("it holds no frames")
        for _ in self.frames(file, image, [0]):
            pass  # palettes and photometric interpretations that can't be shown are found out here
        return FileFacts(count, *shape)

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames in 8 bits, grey or RGB."""
        del image
        for frame, attributes in _stored(file, wanted):
            yield _shown(frame, attributes, self._span_of(file) if _is_deep(frame, attributes) else None)

    def _span_of(self, file: Path) -> Span:
        """Return the span of the whole file, remembered for the file that is being read."""
        if self._span is None or self._span[0] != file:
            self._span = (file, span_of(frame for frame, _ in _stored(file, None)))
        return self._span[1]


def _stored(file: Path, wanted: Sequence[int] | None) -> Iterator[tuple[NDArray[Any], Dataset]]:
    """Yield frames as stored, palettes not looked up, and the pixel attributes; all frames when `wanted` is None."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.utils import iter_pixels

    if wanted is not None and not wanted:
        return  # an empty list of indices means all of them to pydicom
    attributes = Dataset()
    with file.open("rb") as opened:
        frames = iter_pixels(opened, ds_out=attributes, indices=wanted)
        while (frame := _next_quietly(frames)) is not None:
            yield frame, attributes


def _next_quietly(frames: Iterator[NDArray[Any]]) -> NDArray[Any] | None:
    """Return the next frame, None after the last, without pydicom's warnings, which may quote the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return next(frames, None)


def _is_deep(frame: NDArray[Any], attributes: Dataset) -> bool:
    return attributes.get("PhotometricInterpretation") != "PALETTE COLOR" and needs_span(frame.dtype)


def _shown(frame: NDArray[Any], attributes: Dataset, span: Span | None) -> NDArray[np.uint8]:
    """Return a stored frame as a viewer without window or level would show it."""
    from pydicom.pixels.processing import apply_color_lut

    photometric = attributes.get("PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(frame, attributes)[..., :3]
        # Entries of 16 bits use their whole range (PS3.3 C.7.6.3.1.6): the upper byte is the colour.
        return np.asarray(colours >> 8 if colours.dtype == np.uint16 else colours, dtype=np.uint8)
    shown = to_uint8(frame.astype(np.bool_) if attributes.get("BitsStored") == 1 else frame, span)
    return np.asarray(255 - shown, dtype=np.uint8) if photometric == "MONOCHROME1" else shown
