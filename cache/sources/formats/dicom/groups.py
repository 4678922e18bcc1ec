"""Lay what functional groups say of a frame over what the header says of all.

Enhanced objects say it there (PS3.3, C.7.6.16): slopes in the Pixel Value Transformation, windows and tables in the
Frame VOI LUT, and what converters found no place for, padding too, among the unassigned attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydicom.dataset import Dataset

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_MACROS = (
    *("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence"),
    *("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"),
    *("PixelValueTransformationSequence", "FrameVOILUTSequence"),
)
"""Sequences of a group that say how samples are shown; the last one counts."""
_TOGETHER = (
    {"RescaleSlope", "ModalityLUTSequence"},
    {"WindowCenter", "VOILUTSequence"},
    {"PixelPaddingValue", "PixelPaddingRangeLimit"},
)
"""What is replaced as a whole: a slope of a frame stands in place of a table of all frames."""


def told_by_frame(header: Dataset, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the values of attributes of each frame that groups tell of, else one set of all frames."""
    of_all = {name: header[name].value for name in names if name in header}
    for group in _items(header, SHARED)[:1]:
        of_all = _over(of_all, group, names)
    return [_over(of_all, group, names) for group in _items(header, PER_FRAME)] or [of_all]


def _over(told: Mapping[str, Any], group: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """Return what is told with what a group says in its place."""
    told = dict(told)
    for item in _macros(group):
        found = {name: item[name].value for name in names if name in item}
        for together in _TOGETHER:
            if together & found.keys():
                told = {name: value for name, value in told.items() if name not in together}
        told.update(found)
    return told


def _macros(group: Dataset) -> Iterator[Dataset]:
    for name in _MACROS:
        yield from _items(group, name)[:1]


def _items(data: Dataset, name: str) -> Sequence[Dataset]:
    from pydicom.sequence import Sequence as Items

    value = data.get(name)
    return value if isinstance(value, Items) else ()
