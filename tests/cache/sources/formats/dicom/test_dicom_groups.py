"""Functional groups of enhanced DICOM: what they say of a frame counts before what the header says of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.cache.sources.formats.dicom.test_dicom_polarity import FALLING, HAT, RAMP, shown, table
from tests.support.files.dicoms import echo, header, save
from usjepa.cache.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

GREY = echo(3)
SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
SLOPE, VOI = "PixelValueTransformationSequence", "FrameVOILUTSequence"


def group(macro: str, **told: Any) -> Dataset:
    """Return a functional group of one macro with its attributes."""
    item, whole = Dataset(), Dataset()
    for name, value in told.items():
        setattr(item, name, value)
    setattr(whole, macro, [item])
    return whole


def slopes(*of_frames: float) -> list[Dataset]:
    return [group(SLOPE, RescaleSlope=slope, RescaleIntercept=0, RescaleType="US") for slope in of_frames]


def saved(path: Path, told: dict[str, Any], photometric: str = "MONOCHROME2") -> Path:
    return save(path / "a.dcm", header(GREY, photometric), GREY.tobytes(), **told)


INVERTED: list[Any] = [
    pytest.param({SHARED: slopes(-1)}, [1, 1, 1], id="slope of all frames"),
    pytest.param({PER_FRAME: slopes(-1, -1, -1)}, [1, 1, 1], id="slope of each frame"),
    pytest.param({PER_FRAME: slopes(-1, 1, -0.5)}, [1, 0, 1], id="slopes that differ"),
    pytest.param({SHARED: slopes(-1), PER_FRAME: slopes(1, 1, 1)}, [0, 0, 0], id="a frame before all"),
    pytest.param({"RescaleSlope": -1, "RescaleIntercept": 9, SHARED: slopes(1)}, [0, 0, 0], id="groups before header"),
    pytest.param({"ModalityLUTSequence": table(FALLING), SHARED: slopes(1)}, [0, 0, 0], id="a slope for a table"),
    pytest.param({PER_FRAME: [*slopes(-1), Dataset(), Dataset()]}, [1, 0, 0], id="a frame without"),
    pytest.param({SHARED: [group(VOI, VOILUTSequence=table(FALLING))]}, [1, 1, 1], id="table of all frames"),
    pytest.param(
        {PER_FRAME: [group(VOI, VOILUTSequence=table(t)) for t in (RAMP, FALLING, RAMP)]}, [0, 1, 0], id="tables"
    ),
    pytest.param(
        {"WindowCenter": 40, "WindowWidth": 9, SHARED: [group(VOI, VOILUTSequence=table(FALLING))]},
        [1, 1, 1],
        id="a table for a window",
    ),
    pytest.param({SHARED: [group(VOI, WindowCenter=40, WindowWidth=9)]}, [0, 0, 0], id="a window"),
    pytest.param(
        {PER_FRAME: [group("UnassignedPerFrameConvertedAttributesSequence", RescaleSlope=s) for s in (1, 1, -1)]},
        [0, 0, 1],
        id="converted",
    ),
]


@pytest.mark.parametrize(("told", "inverted"), INVERTED)
def test_what_groups_say_turns_the_frames_that_they_are_of(
    tmp_path: Path, told: dict[str, Any], inverted: list[int]
) -> None:
    expected = np.stack([255 - frame if turned else frame for frame, turned in zip(GREY, inverted, strict=True)])
    assert np.array_equal(shown(saved(tmp_path, told)), expected)
    assert np.array_equal(shown(saved(tmp_path, told, "MONOCHROME1")), 255 - expected)


def test_a_word_that_falls_in_one_frame_alone_is_turned_in_that(tmp_path: Path) -> None:
    words = GREY.astype(np.uint16) * 16
    path = save(tmp_path / "a.dcm", header(words), words.tobytes(), **{PER_FRAME: slopes(1, -1, 1)})
    assert np.array_equal(shown(path), np.stack([GREY[0], 255 - GREY[1], GREY[2]]))


def test_padding_of_a_converted_frame_is_black_in_it(tmp_path: Path) -> None:
    words = GREY.astype(np.int16) * 8
    words[:, :5] = -32768
    values = [-32768, -32768, -32768]
    groups = [group("UnassignedPerFrameConvertedAttributesSequence", PixelPaddingValue=value) for value in values]
    path = save(tmp_path / "a.dcm", header(words), words.tobytes(), **{PER_FRAME: groups})
    assert np.array_equal(shown(path), np.where(words < 0, 0, GREY))


def test_groups_of_fewer_frames_than_there_are_count_where_they_agree(tmp_path: Path) -> None:
    assert np.array_equal(shown(saved(tmp_path, {PER_FRAME: slopes(-1, -1)})), 255 - GREY)
    with pytest.raises(SourceError, match="it has 3 frames, and functional groups of 2, which differ"):
        shown(saved(tmp_path, {PER_FRAME: slopes(-1, 1)}))


def enhanced(transfer: str) -> list[Dataset]:
    item = Dataset()
    item.DataPathID, item.RGBLUTTransferFunction = "PRIMARY_SINGLE", transfer
    return [item]


REFUSED: list[Any] = [
    pytest.param({SHARED: [group(VOI, VOILUTSequence=table(HAT))]}, "VOILUTSequence neither rises nor falls", id="hat"),
    pytest.param(
        {"PixelPresentation": "TRUE_COLOR", "EnhancedPaletteColorLookupTableSequence": enhanced("TABLE")},
        "its colours are in enhanced palettes, which are not read",
        id="enhanced palettes",
    ),
]


@pytest.mark.parametrize(("told", "said"), REFUSED)
def test_groups_and_palettes_that_are_not_understood_are_refused(
    tmp_path: Path, told: dict[str, Any], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        shown(saved(tmp_path, told))


def test_a_supplemental_palette_of_one_frame_is_refused(tmp_path: Path) -> None:
    data = header(GREY)
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [128, 128, 16])
        setattr(data, f"{colour}PaletteColorLookupTableData", (np.arange(128) * 257).astype("<u2").tobytes())
    groups = [group("MRImageFrameTypeSequence", PixelPresentation=kind) for kind in ("MONOCHROME", "COLOR", "COLOR")]
    with pytest.raises(SourceError, match="in a supplemental palette, which is not read"):
        shown(save(tmp_path / "a.dcm", data, GREY.tobytes(), **{PER_FRAME: groups}))


def test_enhanced_palettes_that_leave_grey_grey_are_no_colours(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "PixelPresentation": "TRUE_COLOR",
        "EnhancedPaletteColorLookupTableSequence": enhanced("EQUAL_RGB"),
    }
    assert np.array_equal(shown(saved(tmp_path, told)), GREY)
