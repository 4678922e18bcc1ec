"""Read from a DICOM header how large a pixel is.

Scanners say it in the ultrasound regions (PS3.3, C.8.5.5), others in a spacing of pixels. What is wrong is worse than
what is unknown, so a length is taken only where nothing contradicts it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from usjepa.cache.sources.base import Spacing, spacing_of
from usjepa.cache.sources.formats.dicom.boxes import REGIONS, images_among
from usjepa.cache.sources.formats.dicom.header import header_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usjepa.cache.sources.base import Box

_CENTIMETRES = 3
"""Physical Units X and Y Direction (PS3.3, C.8.5.5.1.15)."""
_MM_PER_CM = 10.0
_ALIKE = 1.01
"""Ratio up to which the lengths of two regions are one: some writers round them."""
_SPACINGS = ("PixelSpacing", "NominalScannedPixelSpacing", "ImagerPixelSpacing")
"""Rows apart, then columns apart, in millimetres; the first that is plausible counts."""
_SHARED, _MEASURES = "SharedFunctionalGroupsSequence", "PixelMeasuresSequence"


def spacing_in(file: Path, height: int, width: int) -> Spacing | None:
    """Return the millimetres per pixel of a file's frames, of that size; None where it does not say, or says two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the values that they complain about
        try:
            header = header_of(file, [REGIONS, _SHARED, *_SPACINGS])
            found = list(_of_regions(header, height, width))
            if not found:
                return next(_of_pixels(header), None)
        except Exception:  # noqa: BLE001 - a header that can't be read says nothing; what is wrong shows in its pixels
            return None
    return found[0] if all(_alike(found[0], other) for other in found) else None


def _of_regions(header: Any, height: int, width: int) -> Iterator[Spacing]:
    """Yield the spacings of the regions of 2D images that lie within the frames, the largest region's first.

    One that lies elsewhere was written for frames of another size, so its lengths may be of other pixels too.
    """
    inside = [(box, item) for box, item in images_among(header) if _within(box, height, width)]
    for _, item in sorted(inside, key=lambda pair: _area(pair[0]), reverse=True):
        units = (item.get("PhysicalUnitsXDirection"), item.get("PhysicalUnitsYDirection"))
        across, down = (_number(item.get(name)) * _MM_PER_CM for name in ("PhysicalDeltaX", "PhysicalDeltaY"))
        spacing = spacing_of(down, across, measured=True)
        if units == (_CENTIMETRES, _CENTIMETRES) and spacing is not None:
            yield spacing


def _of_pixels(header: Any) -> Iterator[Spacing]:
    """Yield what the header says of pixels in general, or of all frames of an enhanced object."""
    measures = [item for shared in header.get(_SHARED) or () for item in shared.get(_MEASURES) or ()]
    for item, name in [(header, name) for name in _SPACINGS] + [(item, _SPACINGS[0]) for item in measures]:
        values = item.get(name)
        if values is None or isinstance(values, str) or len(values) != 2:
            continue
        down, across = map(_number, values)
        spacing = spacing_of(down, across)
        if spacing is not None:
            yield spacing


def _number(value: Any) -> float:
    """Return a value as a number, NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _within(box: Box, height: int, width: int) -> bool:
    # Some writers count a last pixel that is not there.
    return 0 <= box.left < box.right <= width + 1 and 0 <= box.top < box.bottom <= height + 1


def _area(box: Box) -> int:
    return (box.right - box.left) * (box.bottom - box.top)


def _alike(one: Spacing, other: Spacing) -> bool:
    return all(max(pair) <= _ALIKE * min(pair) for pair in zip(one, other, strict=True))
