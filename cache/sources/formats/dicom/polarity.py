"""Tell which samples of a grey DICOM file are dark.

How much contrast a window or a table gives is a viewer's choice and not applied. Whether large samples are bright is
not: MONOCHROME1, a negative slope, and tables that fall each turn it round (PS3.3, C.11.1, C.11.2 and C.11.6), of all
frames or, in functional groups, of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.sources.formats.dicom.groups import PER_FRAME, SHARED, told_by_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_ENHANCED, _SUPPLEMENTAL = "EnhancedPaletteColorLookupTableSequence", "RedPaletteColorLookupTableDescriptor"
_TOLD = (
    *("RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "PresentationLUTSequence"),
    *("PresentationLUTShape", "PixelPresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("PhotometricInterpretation", _ENHANCED, _SUPPLEMENTAL),
)
NEEDED = (*_TOLD, SHARED, PER_FRAME)
"""What of a header this takes."""
_COLOURED = ("COLOR", "MIXED", "TRUE_COLOR", "COLOR_REF", "COLOR_RANGE")
"""Values of Pixel Presentation that grey samples have where tables make colours of them."""
_MONOTONE = 0.9
"""Share of its ups and downs by which a table has to rise or fall in all: rounding may turn a few steps."""


class Greys(NamedTuple):
    """How grey samples are shown."""

    inverted: bool
    """Whether 0 is white."""
    padding: tuple[int, int] | None
    """Smallest and largest sample of what only fills up the frame, and is black."""

    def is_padding(self, frame: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return which samples only fill up the frame; None where none is said to, or bytes are stored."""
        if self.padding is None or frame.dtype == np.uint8:
            return None
        return (frame >= self.padding[0]) & (frame <= self.padding[1])


AS_STORED = Greys(False, None)


def greys_by_frame(header: Dataset, little: bool, count: int) -> list[Greys]:
    """Return how the samples of each of so many frames are shown, or one answer for all; colours are not inverted.

    Raises:
        ValueError: the header contradicts itself, or a table neither rises nor falls.
    """
    if header.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        return [AS_STORED]
    found = [_greys_of(told, little) for told in told_by_frame(header, _TOLD)]
    if len(set(found)) == 1:
        return found[:1]
    if len(found) < count:
        raise ValueError(f"it has {count} frames, and functional groups of {len(found)}, which differ")
    return found


def _greys_of(told: Mapping[str, Any], little: bool) -> Greys:
    photometric = told["PhotometricInterpretation"]
    if _word(told, "PixelPresentation") in _COLOURED:
        if _SUPPLEMENTAL in told:
            raise ValueError("its colours are in a supplemental palette, which is not read")
        if any(item.get("RGBLUTTransferFunction") != "EQUAL_RGB" for item in told.get(_ENHANCED) or ()):
            raise ValueError("its colours are in enhanced palettes, which are not read")
    white = photometric == "MONOCHROME1"
    shape = _word(told, "PresentationLUTShape")
    if shape in ("INVERSE", "IDENTITY") and white != (shape == "INVERSE"):
        raise ValueError(f"it is {photometric}, which its PresentationLUTShape, {shape}, contradicts")
    turns = [white, _slope(told) < 0]
    for name in ("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTSequence"):
        for item in (told.get(name) or ())[:1]:  # the first is the one that is shown at first
            falls = _falls(item, name, little)
            if falls and name == "VOILUTSequence" and told.get("WindowCenter") not in (None, ""):
                raise ValueError("its VOI LUT falls, and the window beside it rises")
            turns.append(falls)
    return Greys(sum(turns) % 2 == 1, _padding(told))


def _word(told: Mapping[str, Any], name: str) -> str:
    return str(told.get(name) or "").strip().upper()


def _slope(told: Mapping[str, Any]) -> float:
    try:
        return float(told["RescaleSlope"])
    except (KeyError, TypeError, ValueError):
        return 1.0


def _falls(item: Dataset, name: str, little: bool) -> bool:
    """Return whether a table turns large samples into small ones."""
    data, descriptor = item.get("LUTData"), item.get("LUTDescriptor")
    if data is None or descriptor is None or isinstance(descriptor, int):
        raise ValueError(f"its {name} holds no table")
    entries = int(descriptor[0]) or 1 << 16
    if isinstance(data, bytes):
        words = len(data) >= 2 * entries
        table = np.frombuffer(data[: len(data) // 2 * 2], ("<u2" if little else ">u2") if words else np.uint8)
    else:
        table = np.atleast_1d(np.asarray(data))
    if len(table) < entries:
        raise ValueError(f"its {name} is cut short: {len(table):,} of {entries:,} entries")
    steps = np.diff(table[:entries].astype(np.int64))
    net, ways = int(steps.sum()), int(np.abs(steps).sum())
    if abs(net) < _MONOTONE * ways:
        raise ValueError(f"its {name} neither rises nor falls, which is not read")
    return net < 0


def _padding(told: Mapping[str, Any]) -> tuple[int, int] | None:
    value, limit = told.get("PixelPaddingValue"), told.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    ends = sorted((value, limit if isinstance(limit, int) else value))
    return ends[0], ends[1]
