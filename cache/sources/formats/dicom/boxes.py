"""Read from a DICOM header where in the frames its images lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usjepa.cache.sources.base import Box
from usjepa.cache.sources.formats.dicom.header import header_of

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

REGIONS = "SequenceOfUltrasoundRegions"
_IMAGE_2D = 1
"""Region Spatial Format of an image; traces, spectra and M-mode have others (PS3.3, C.8.5.5.1.1)."""
_CORNERS = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")


def boxes_of(file: Path) -> tuple[Box, ...]:
    """Return the ultrasound regions of a file that hold 2D images, as it has them; none where it has none."""
    return tuple(box for box, _ in images_among(header_of(file, [REGIONS])))


def images_among(header: Dataset) -> list[tuple[Box, Dataset]]:
    """Return the regions of a header that hold 2D images: where each lies, and what is said of it."""
    return [(_box(item), item) for item in header.get(REGIONS) or () if _is_image(item)]


def _is_image(item: Any) -> bool:
    return item.get("RegionSpatialFormat") == _IMAGE_2D and all(isinstance(item.get(name), int) for name in _CORNERS)


def _box(item: Any) -> Box:
    left, top, right, bottom = (int(item[name].value) for name in _CORNERS)
    return Box(left, top, right + 1, bottom + 1)  # the standard counts the last pixel in
