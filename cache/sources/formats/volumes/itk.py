"""Load a volume through SimpleITK, after its header was looked into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import spacing_of
from usjepa.cache.sources.formats.volumes.base import Volume, library, require_volume, stacked

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_COLOURS = (3, 4)
_NBYTES = {"8": 1, "16": 2, "32": 4, "64": 8}
HEAD_NBYTES = 1 << 16
"""Of a header; those of ultrasound have a few hundred."""


def load(file: Path, samples: Path, kind: str, title: str, listed: bool = False) -> Volume:
    """Return the volume of a file.

    Args:
        file: the header, or all of it.
        samples: the file that holds the samples.
        kind: the class of ITK that reads it.
        title: of the format.
        listed: whether the values of a pixel are frames of a list.

    Raises:
        ValueError: it claims more than its bytes hold, or its samples are no frames.
        RuntimeError: SimpleITK can't read it.
    """
    sitk = library("SimpleITK", "SimpleITK", title)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(kind)
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        count = int(reader.GetNumberOfComponents())
        require_volume(reader.GetSize(), _pixel_nbytes(sitk, reader.GetPixelID()) * count, samples)
        safe_point()
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(_said(error)) from error
    stored = sitk.GetArrayFromImage(image)
    across, down, *_ = image.GetSpacing()
    return Volume(_frames(stored, count, listed), spacing_of(down, across))


def _pixel_nbytes(sitk: Any, pixel: int) -> int:
    words = sitk.GetPixelIDValueAsString(pixel).split()
    if "complex" in words:
        raise ValueError("its samples are complex numbers, no intensities")
    return next((_NBYTES[bits] for word in words if (bits := word.removesuffix("-bit")) in _NBYTES), 8)


def _frames(stored: NDArray[Any], count: int, listed: bool) -> NDArray[Any]:
    """Return [N, H, W] or [N, H, W, C] of SimpleITK's array, whose last axis counts the values of a pixel."""
    if count == 1:
        return stacked(stored)
    if listed or count not in _COLOURS:
        return stacked(np.moveaxis(stored, -1, 0))
    return stacked(stored if stored.ndim > 3 else stored[None])


def _said(error: RuntimeError) -> str:
    """Return the last line of what SimpleITK says, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else "SimpleITK can't read it"
    if text.startswith("Reason:"):  # of the system's last call, which may well be "Success"
        return "SimpleITK can't read its samples"
    return text.rpartition("): ")[2] if "): " in text else text.removeprefix("ITK ERROR: ")
