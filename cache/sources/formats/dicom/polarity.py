"""Tell which samples of a grey DICOM file are dark.

How much contrast a window or a table gives is a viewer's choice and not applied. Whether large samples are bright is
not: MONOCHROME1, a negative slope, and tables that fall each turn it round (PS3.3, C.11.1, C.11.2 and C.11.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

NEEDED = (
    *("RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "PresentationLUTSequence"),
    *("PresentationLUTShape", "PixelPresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    "SharedFunctionalGroupsSequence",
)
"""What of a header this takes."""
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


def greys_of(header: Dataset, little: bool) -> Greys:
    """Return how the samples of a grey file are shown; of colours nothing is inverted.

    Raises:
        ValueError: the header contradicts itself, or a table neither rises nor falls.
    """
    photometric = header.PhotometricInterpretation
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return AS_STORED
    mixed = str(header.get("PixelPresentation") or "").strip().upper() in ("COLOR", "MIXED")
    if mixed and "RedPaletteColorLookupTableDescriptor" in header:
        raise ValueError("its colours are in a supplemental palette, which is not read")
    white = photometric == "MONOCHROME1"
    shape = str(header.get("PresentationLUTShape") or "").strip().upper()
    if shape in ("INVERSE", "IDENTITY") and white != (shape == "INVERSE"):
        raise ValueError(f"it is {photometric}, which its PresentationLUTShape, {shape}, contradicts")
    turns = [white, _slope(header) < 0]
    for name in ("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTSequence"):
        for item in (header.get(name) or ())[:1]:  # the first is the one that is shown at first
            turns.append(_falls(item, name, little))
    if header.get("VOILUTSequence") and header.get("WindowCenter") not in (None, "") and turns[-1]:
        raise ValueError("its VOI LUT falls, and the window beside it rises")
    return Greys(sum(turns) % 2 == 1, _padding(header))


def _slope(header: Dataset) -> float:
    shared = (header.get("SharedFunctionalGroupsSequence") or ())[:1]
    groups = [item for group in shared for item in group.get("PixelValueTransformationSequence") or ()]
    for item in (*groups[:1], header):
        try:
            return float(item.RescaleSlope)
        except (AttributeError, TypeError, ValueError):
            continue
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


def _padding(header: Dataset) -> tuple[int, int] | None:
    value, limit = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    ends = sorted((value, limit if isinstance(limit, int) else value))
    return ends[0], ends[1]
