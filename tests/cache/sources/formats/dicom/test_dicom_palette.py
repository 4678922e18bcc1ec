"""Palettes: whatever form the entries have, the colours are those that the palette was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.support.files.decoded import frames, probe
from tests.support.files.dicoms import header, save
from usjepa.cache.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

ENTRIES = 200
COLOURS = np.stack([np.arange(ENTRIES) + 30, 255 - np.arange(ENTRIES), np.arange(ENTRIES) // 2], axis=-1)
"""[entries, 3]"""
NUMBERS = (np.arange(32 * 48).reshape(1, 32, 48) % ENTRIES).astype(np.uint8)


def with_palette(data: Dataset, tables: list[bytes], bits: int, first: int = 0, entries: int = ENTRIES) -> Dataset:
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [entries, first, bits])
        setattr(data, f"{colour}PaletteColorLookupTableData", table)
        data[f"{colour}PaletteColorLookupTableData"].VR = "OW"
    return data


def shown(path: Path) -> NDArray[np.uint8]:
    assert probe(path).frames == 1
    return frames(path, [0])[0]


FORMS: dict[str, tuple[int, Any]] = {
    "words whose upper byte is the colour": (16, lambda c: c * 256),
    "words that are full": (16, lambda c: c * 257),
    "words that hold bytes": (16, lambda c: c),
    "words that hold bytes, said to be of 8 bits": (8, lambda c: c),
    "words of 12 bits": (12, lambda c: c * 16),
    "words of 12 bits, said to be of 16": (16, lambda c: c * 16),
}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("form", FORMS)
def test_entries_that_are_words_give_their_colours(tmp_path: Path, form: str, syntax: str) -> None:
    bits, stored = FORMS[form]
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    tables = [stored(COLOURS[:, channel]).astype(order).tobytes() for channel in range(3)]
    data = with_palette(header(NUMBERS, "PALETTE COLOR", syntax), tables, bits)
    assert np.array_equal(shown(save(tmp_path / "a.dcm", data, NUMBERS.tobytes())), COLOURS[NUMBERS[0]])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("bits", [8, 16])
def test_entries_that_are_bytes_give_their_colours(tmp_path: Path, syntax: str, bits: int) -> None:
    tables = [COLOURS[:, channel].astype(np.uint8) for channel in range(3)]
    if syntax == ExplicitVRBigEndian:  # two entries a word, whose upper byte comes first
        tables = [table.reshape(-1, 2)[:, ::-1] for table in tables]
    data = with_palette(header(NUMBERS, "PALETTE COLOR", syntax), [table.tobytes() for table in tables], bits)
    assert np.array_equal(shown(save(tmp_path / "a.dcm", data, NUMBERS.tobytes())), COLOURS[NUMBERS[0]])


def test_numbers_outside_a_palette_show_its_ends(tmp_path: Path) -> None:
    numbers = np.arange(32 * 48).reshape(1, 32, 48).astype(np.uint16)
    tables = [(COLOURS[:, channel] * 257).astype("<u2").tobytes() for channel in range(3)]
    data = with_palette(header(numbers, "PALETTE COLOR"), tables, 16, first=300)
    expected = COLOURS[(numbers[0].astype(int) - 300).clip(0, ENTRIES - 1)]
    assert np.array_equal(shown(save(tmp_path / "a.dcm", data, numbers.tobytes())), expected)


def test_words_are_looked_up_in_a_palette_of_bytes(tmp_path: Path) -> None:
    numbers = NUMBERS.astype(np.uint16) + 256
    tables = [np.concatenate([np.zeros(256), COLOURS[:, channel]]).astype(np.uint8).tobytes() for channel in range(3)]
    data = with_palette(header(numbers, "PALETTE COLOR"), tables, 8, entries=256 + ENTRIES)
    assert np.array_equal(shown(save(tmp_path / "a.dcm", data, numbers.tobytes())), COLOURS[NUMBERS[0]])


def test_no_entries_stand_for_65_536(tmp_path: Path) -> None:
    numbers = (np.arange(32 * 48).reshape(1, 32, 48) * 42).astype(np.uint16)
    table = (np.arange(1 << 16)).astype("<u2").tobytes()
    data = with_palette(header(numbers, "PALETTE COLOR"), [table] * 3, 16, entries=0)
    assert np.array_equal(shown(save(tmp_path / "a.dcm", data, numbers.tobytes()))[..., 0], numbers[0] >> 8)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_segments_are_expanded(tmp_path: Path, syntax: str) -> None:
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    # One entry as it is, then a straight line over the rest (PS3.3, C.7.9.2).
    segments = np.array([0, 1, 0, 1, 255, 65535], order).tobytes()
    numbers = (np.arange(32 * 48).reshape(1, 32, 48) % 256).astype(np.uint8)
    data = header(numbers, "PALETTE COLOR", syntax)
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(data, f"Segmented{colour}PaletteColorLookupTableData", segments)
    found = shown(save(tmp_path / "a.dcm", data, numbers.tobytes()))
    assert np.abs(found[..., 1].astype(int) - numbers[0]).max() <= 1


@pytest.mark.parametrize("lost", ["RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableDescriptor"])
def test_a_palette_that_is_not_whole_is_named(tmp_path: Path, lost: str) -> None:
    tables: list[Any] = [(COLOURS[:, channel] * 257).astype("<u2").tobytes() for channel in range(3)]
    data = with_palette(header(NUMBERS, "PALETTE COLOR"), tables, 16)
    with pytest.raises(SourceError, match="palette"):
        probe(save(tmp_path / "a.dcm", data, NUMBERS.tobytes(), **{lost: None}))


def test_a_palette_beside_a_grey_image_is_not_looked_up(tmp_path: Path) -> None:
    tables = [(COLOURS[:, channel] * 257).astype("<u2").tobytes() for channel in range(3)]
    data = with_palette(header(NUMBERS, "MONOCHROME2"), tables, 16)
    assert np.array_equal(shown(save(tmp_path / "a.dcm", data, NUMBERS.tobytes())), NUMBERS[0])
