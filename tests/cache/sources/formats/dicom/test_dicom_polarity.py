"""Which samples of a DICOM are dark: as pydicom applies what its header says; contradictions are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from tests.support.files.decoded import frames, probe
from tests.support.files.dicoms import echo, header, save
from usjepa.cache.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

GREY = echo()
RAMP = np.arange(256)
FALLING = RAMP[::-1]
HAT = np.minimum(RAMP, FALLING) * 2


def table(entries: np.ndarray, order: str = "<u2", first: int = 0) -> list[Dataset]:
    """Return a sequence with a lookup table of words."""
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, 8], entries.astype(order).tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR, item.ModalityLUTType = "US", "OW", "US"
    return [item]


def shared(slope: float) -> list[Dataset]:
    """Return the functional groups of an enhanced object that rescale all frames."""
    value, group = Dataset(), Dataset()
    value.RescaleSlope, value.RescaleIntercept, value.RescaleType = slope, 255, "US"
    group.PixelValueTransformationSequence = [value]
    return [group]


def shown(path: Path) -> np.ndarray:
    return np.stack(frames(path, range(probe(path).frames)))


INVERTED: list[Any] = [
    pytest.param({"RescaleSlope": -1, "RescaleIntercept": 255}, id="slope"),
    pytest.param({"SharedFunctionalGroupsSequence": shared(-1)}, id="slope of all frames"),
    pytest.param({"ModalityLUTSequence": table(FALLING)}, id="modality"),
    pytest.param({"VOILUTSequence": table(FALLING)}, id="values of interest"),
    pytest.param({"PresentationLUTSequence": table(FALLING)}, id="presentation"),
    pytest.param({"ModalityLUTSequence": table(FALLING), "VOILUTSequence": table(RAMP)}, id="one of two"),
]


@pytest.mark.parametrize("told", INVERTED)
def test_what_turns_large_samples_into_small_ones_inverts(tmp_path: Path, told: dict[str, Any]) -> None:
    path = save(tmp_path / "a.dcm", header(GREY), GREY.tobytes(), **told)
    assert np.array_equal(shown(path), 255 - GREY)
    data = pydicom.dcmread(path)
    # pydicom leaves functional groups alone, and its levels of a presentation table wrap where they are bytes.
    if "SharedFunctionalGroupsSequence" not in told and "PresentationLUTSequence" not in told:
        applied = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
        assert np.array_equal(applied, 255 - GREY)
    twice = save(tmp_path / "b.dcm", header(GREY, "MONOCHROME1"), GREY.tobytes(), **told)
    assert np.array_equal(shown(twice), GREY)


def test_a_table_of_either_byte_order_is_read(tmp_path: Path) -> None:
    told = {"ModalityLUTSequence": table(FALLING * 200, ">u2")}
    path = save(tmp_path / "a.dcm", header(GREY, syntax=ExplicitVRBigEndian), GREY.tobytes(), **told)
    assert np.array_equal(shown(path), 255 - GREY)
    path = save(tmp_path / "b.dcm", header(GREY, syntax=ExplicitVRLittleEndian), GREY.tobytes(), **told)
    with pytest.raises(SourceError, match="its ModalityLUTSequence neither rises nor falls"):
        probe(path)


RISING: list[Any] = [
    pytest.param("MONOCHROME2", {"VOILUTSequence": table(RAMP // 2)}, id="a table that rises"),
    pytest.param("MONOCHROME2", {"WindowCenter": 40, "WindowWidth": 10}, id="a window"),
    pytest.param("MONOCHROME2", {"PresentationLUTShape": "IDENTITY"}, id="identity"),
    pytest.param("MONOCHROME1", {"PresentationLUTShape": "INVERSE"}, id="inverse once"),
]


@pytest.mark.parametrize(("photometric", "told"), RISING)
def test_contrast_is_not_applied_and_nothing_is_inverted_twice(
    tmp_path: Path, photometric: str, told: dict[str, Any]
) -> None:
    path = save(tmp_path / "a.dcm", header(GREY, photometric), GREY.tobytes(), **told)
    assert np.array_equal(shown(path), 255 - GREY if photometric == "MONOCHROME1" else GREY)


REFUSED: list[Any] = [
    pytest.param("MONOCHROME2", {"PresentationLUTShape": "INVERSE"}, "MONOCHROME2, which its .*INVERSE, contr", id="1"),
    pytest.param("MONOCHROME1", {"PresentationLUTShape": "IDENTITY"}, "MONOCHROME1, which its .*IDENTITY", id="2"),
    pytest.param("MONOCHROME2", {"ModalityLUTSequence": table(HAT)}, "LUTSequence neither rises nor falls", id="hat"),
    pytest.param("MONOCHROME2", {"VOILUTSequence": [Dataset()]}, "its VOILUTSequence holds no table", id="no table"),
    pytest.param(
        "MONOCHROME2", {"VOILUTSequence": table(FALLING), "WindowCenter": 9}, "LUT falls, and the window", id="window"
    ),
]


@pytest.mark.parametrize(("photometric", "told", "said"), REFUSED)
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, photometric: str, told: dict[str, Any], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        probe(save(tmp_path / "a.dcm", header(GREY, photometric), GREY.tobytes(), **told))


def test_a_supplemental_palette_is_refused(tmp_path: Path) -> None:
    data = header(GREY)
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [128, 128, 16])
        setattr(data, f"{colour}PaletteColorLookupTableData", (np.arange(128) * 257).astype("<u2").tobytes())
    with pytest.raises(SourceError, match="in a supplemental palette, which is not read"):
        probe(save(tmp_path / "a.dcm", data, GREY.tobytes(), PixelPresentation="COLOR"))


@pytest.mark.parametrize("limit", [{}, {"PixelPaddingRangeLimit": -31000}])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_fills_up_a_frame_is_black_and_takes_no_levels(
    tmp_path: Path, photometric: str, limit: dict[str, Any]
) -> None:
    stored = GREY.astype(np.int16) * 8
    stored[:, :5] = stored[2] = -32768
    stored[:, 3] = -31000 if limit else -32768
    expected = np.where(stored < 0, 0, 255 - GREY if photometric == "MONOCHROME1" else GREY)
    told = {"PixelPaddingValue": -32768, **limit}
    assert np.array_equal(
        shown(save(tmp_path / "a.dcm", header(stored, photometric), stored.tobytes(), **told)), expected
    )
