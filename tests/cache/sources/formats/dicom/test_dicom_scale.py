"""The size of a DICOM's pixels: as its regions say, else its spacing of pixels, and nothing where they contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydicom.dataset import Dataset

from tests.support.files.decoded import probe
from tests.support.files.dicoms import echo, header, save

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.sources.base import Spacing

HEIGHT, WIDTH = 64, 96
LEFT, RIGHT, WHOLE = (0, 0, 47, 63), (48, 0, 95, 63), (0, 0, 95, 63)
"""x0, y0, x1, y1; the last pixels count in."""


def region(corners: tuple[int, int, int, int], across_cm: Any = 0.02, down_cm: Any = 0.04, **other: Any) -> Dataset:
    """Return an ultrasound region as scanners write it: 2D, tissue, in centimetres."""
    item: Any = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = corners
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = across_cm, down_cm
    for name, value in other.items():
        if value is None:
            delattr(item, name)
        else:
            setattr(item, name, value)
    return item


def spacing(tmp_path: Path, *regions: Dataset, **attributes: Any) -> Spacing | None:
    frames = echo(2, HEIGHT, WIDTH)
    data = header(frames)
    if regions:
        attributes["SequenceOfUltrasoundRegions"] = list(regions)
    return probe(save(tmp_path / "a.dcm", data, frames.tobytes(), **attributes)).spacing


def test_deltas_of_a_region_in_centimetres_are_millimetres_down_and_across(tmp_path: Path) -> None:
    assert spacing(tmp_path, region(WHOLE)) == pytest.approx((0.4, 0.2))


def test_regions_of_one_scale_are_one_and_of_two_scales_none(tmp_path: Path) -> None:
    assert spacing(tmp_path, region(LEFT), region(RIGHT, 0.0201, 0.0401)) == pytest.approx((0.4, 0.2))
    assert spacing(tmp_path, region(LEFT), region(RIGHT, 0.03, 0.06), PixelSpacing=[0.4, 0.2]) is None


@pytest.mark.parametrize(
    "other",
    [
        {"RegionSpatialFormat": 3}, {"PhysicalUnitsXDirection": 4}, {"PhysicalUnitsYDirection": None},
        {"PhysicalDeltaX": None}, {"PhysicalDeltaX": 0.0}, {"PhysicalDeltaX": -0.05}, {"PhysicalDeltaX": float("nan")},
        {"PhysicalDeltaX": 50.0}, {"PhysicalDeltaY": 1e-7}, {"RegionLocationMaxX1": 400}, {"RegionLocationMinX0": 96},
    ],
    ids=lambda other: " ".join(f"{name}={value}" for name, value in other.items()),
)  # fmt: skip
def test_a_region_that_gives_no_length_of_the_image_leaves_it_to_another(tmp_path: Path, other: dict[str, Any]) -> None:
    odd = region(RIGHT, 0.05, 0.05, **other)
    assert spacing(tmp_path, odd) is None
    assert spacing(tmp_path, odd, region(LEFT)) == pytest.approx((0.4, 0.2))
    assert spacing(tmp_path, odd, PixelSpacing=[0.3, 0.1]) == pytest.approx((0.3, 0.1))


def test_a_millimetre_that_was_measured_is_one(tmp_path: Path) -> None:
    assert spacing(tmp_path, region(WHOLE, 0.1, 0.1)) == pytest.approx((1, 1))
    assert spacing(tmp_path, PixelSpacing=[1, 1]) is None


@pytest.mark.parametrize("name", ["PixelSpacing", "NominalScannedPixelSpacing", "ImagerPixelSpacing"])
def test_without_regions_the_spacing_of_pixels_counts_rows_first(tmp_path: Path, name: str) -> None:
    assert spacing(tmp_path, **{name: [0.3, 0.1]}) == pytest.approx((0.3, 0.1))


def test_regions_come_before_pixels_and_pixels_before_what_was_scanned(tmp_path: Path) -> None:
    others: dict[str, Any] = {"ImagerPixelSpacing": [9, 9], "NominalScannedPixelSpacing": [0.7, 0.7]}
    assert spacing(tmp_path, region(LEFT), PixelSpacing=[5, 5], **others) == pytest.approx((0.4, 0.2))
    assert spacing(tmp_path, PixelSpacing=[0.3, 0.1], **others) == pytest.approx((0.3, 0.1))
    assert spacing(tmp_path, PixelSpacing=[0, 0], **others) == pytest.approx((0.7, 0.7))


def test_an_enhanced_object_says_it_for_all_its_frames(tmp_path: Path) -> None:
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [0.3, 0.1]
    shared.PixelMeasuresSequence = [measures]
    assert spacing(tmp_path, SharedFunctionalGroupsSequence=[shared]) == pytest.approx((0.3, 0.1))


@pytest.mark.parametrize("value", [b"0.3 ", b"a\\b ", b"0.3\\0.1\\0.2 ", b""])
def test_a_spacing_that_is_none_leaves_the_file_readable(tmp_path: Path, value: bytes) -> None:
    frames = echo(2, HEIGHT, WIDTH)
    path = save(tmp_path / "a.dcm", header(frames), frames.tobytes(), PixelSpacing=["0.300000", "0.100000"])
    data = path.read_bytes()
    written = b"0.300000\\0.100000"
    assert data.count(written) == 1
    path.write_bytes(data.replace(written, value.ljust(len(written))))
    facts = probe(path)
    assert (facts.frames, facts.height, facts.width, facts.spacing) == (2, HEIGHT, WIDTH, None)


def test_a_header_without_scale_says_none(tmp_path: Path) -> None:
    assert spacing(tmp_path) is None
