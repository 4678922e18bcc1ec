"""Look up the colours of DICOM frames that are stored as numbers of palette entries.

The descriptor of a palette is not believed about its depth: whether an entry is a byte or a word, and how much of a
word is in use, shows in the data (PS3.3, C.7.6.3.1.5 and C.7.6.3.1.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_COLOURS = ("Red", "Green", "Blue")
_SEGMENTED = "SegmentedRedPaletteColorLookupTableData"
_PARTLY_USED = 4096
"""Words that all lie below this are of 12 bits or fewer: as the upper part of 16 they would be black."""


def colours_of(numbers: NDArray[Any], attributes: Dataset, little: bool) -> NDArray[np.uint8]:
    """Return the colours [H, W, 3] of palette numbers [H, W]; ValueError where the palette is not whole.

    Numbers below the first entry show the first, numbers above the last show the last.
    """
    tables = _segmented(attributes, little) if _SEGMENTED in attributes else _plain(attributes, little)
    largest = max(int(table.max()) for table in tables)
    shift = max(largest.bit_length() - 8, 0) if largest < _PARTLY_USED else 8
    planes = []
    for colour, table in zip(_COLOURS, tables, strict=True):
        first = _descriptor(attributes, colour)[1]
        place = (numbers.astype(np.int64) - first).clip(0, len(table) - 1)
        planes.append((table >> shift).astype(np.uint8)[place])
    return np.stack(planes, axis=-1)


def _descriptor(attributes: Dataset, colour: str) -> tuple[int, int]:
    """Return (entries, number of the first one); 0 entries stand for 65,536."""
    found = attributes.get(f"{colour}PaletteColorLookupTableDescriptor")
    if found is None or isinstance(found, int) or len(found) != 3:
        raise ValueError(f"its colours are in a palette, and the header has no {colour.lower()} one")
    entries, first, _ = (int(number) for number in found)
    if first >= 1 << 15 and attributes.get("PixelRepresentation") == 1:
        first -= 1 << 16
    return entries or 1 << 16, first


def _plain(attributes: Dataset, little: bool) -> list[NDArray[np.int64]]:
    """Return the three tables as they are written."""
    tables = []
    for colour in _COLOURS:
        entries = _descriptor(attributes, colour)[0]
        name = f"{colour}PaletteColorLookupTableData"
        data = bytes(attributes.get(name) or b"")
        if len(data) >= 2 * entries:
            table = np.frombuffer(data, "<u2" if little else ">u2", entries)
        elif entries <= len(data) <= entries + 1:  # whatever depth the descriptor says
            table = np.frombuffer(data, np.uint8)
            if not little and attributes[name].VR == "OW" and not len(data) % 2:
                table = table.reshape(-1, 2)[:, ::-1].reshape(-1)  # two entries a word
            table = table[:entries]
        else:
            raise ValueError(f"its {colour.lower()} palette is cut short: {len(data):,} bytes for {entries:,} entries")
        tables.append(table.astype(np.int64))
    return tables


def _segmented(attributes: Dataset, little: bool) -> list[NDArray[np.int64]]:
    """Return the three tables that segments describe (PS3.3, C.7.9.2), expanded by pydicom."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

    entries, first = _descriptor(attributes, "Red")
    palette = Dataset({element.tag: element for element in attributes if "Palette" in element.keyword})
    palette.file_meta = FileMetaDataset()
    palette.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    colours = apply_color_lut(np.arange(first, first + entries), palette)
    return [colours[:, channel].astype(np.int64) for channel in range(3)]
