"""Regions that come with the data: masks in a manifest, ultrasound regions of DICOM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from tests.cache.frames.test_regions import overlap, sector, speckled
from tests.cache.sources.formats.dicom.test_dicom import write as write_dicom
from tests.support.builds import small
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.frames.cells import unpack_cells
from usjepa.cache.reading.store import open_store
from usjepa.cache.sources.base import Box
from usjepa.cache.sources.formats.dicom.boxes import boxes_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MASK = np.zeros((240, 240), np.uint8)
MASK[50:150, 60:200] = 1


def regions_of(tmp_path: Path, source: Path, *sets: str) -> NDArray[np.bool_]:
    """Return the region of each file, bool [files, 120, 120]."""
    recipe = small("cache.image_size=240", "cache.views.count=1", *sets)
    build(str(tmp_path / "s"), recipe, BuildRequest(source=str(source)))
    store = open_store(tmp_path / "s")
    return unpack_cells(store.read(store.rows).regions, 240)


def region_of(tmp_path: Path, source: Path, *sets: str) -> NDArray[np.bool_]:
    """Return the region of the only file, bool [120, 120]."""
    (found,) = regions_of(tmp_path, source, *sets)
    return found


def masked(tmp_path: Path, mask: NDArray[np.uint8]) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    cv2.imwrite(str(root / "a.png"), speckled(sector()))
    cv2.imwrite(str(root / "a_scan.png"), mask)
    (root / "manifest.csv").write_text("path,region\na.png,a_scan.png\n")
    return root


@pytest.mark.parametrize("hidden", [False, True])
def test_a_mask_in_the_manifest_is_the_region_whatever_its_white(tmp_path: Path, hidden: bool) -> None:
    root = masked(tmp_path, MASK)
    cv2.imwrite(str(root / "b.png"), speckled(sector(), seed=1))
    cv2.imwrite(str(root / "b_scan.png"), MASK * 255)
    (root / "manifest.csv").write_text("path,region\na.png,a_scan.png\nb.png,b_scan.png\n")
    found = regions_of(tmp_path, root, f"cache.hash_paths={str(hidden).lower()}")
    assert np.array_equal(found, np.stack([MASK.reshape(120, 2, 120, 2).any((1, 3))] * 2))
    assert open_store(tmp_path / "s").table.sources[0].path.count(".png") == (0 if hidden else 1)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [(MASK[:100], "the mask has 100x240 pixels, the frames 240x240"), (MASK * 0, "the mask is empty")],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path, mask: NDArray[np.uint8], reason: str) -> None:
    with pytest.raises(SourceError, match=rf"^a\.png: can't be read as an image that masks its scan: {reason}"):
        region_of(tmp_path, masked(tmp_path, mask))


def test_a_mask_that_is_missing_or_outside_is_named_with_its_line(tmp_path: Path) -> None:
    root = masked(tmp_path, MASK)
    for named, reason in (("b.png", "does not exist"), ("../a.png", "is refused")):
        (root / "manifest.csv").write_text(f"path,region\na.png,{named}\n")
        with pytest.raises(UsageError, match=rf"line 2: region '{named}' {reason}"):
            region_of(tmp_path, root)


def test_a_mask_that_changed_is_another_content(tmp_path: Path) -> None:
    root = masked(tmp_path, MASK)
    region_of(tmp_path, root)
    before = open_store(tmp_path / "s").table.sources[0].content_hash
    cv2.imwrite(str(root / "a_scan.png"), np.roll(MASK, 4))
    build(str(tmp_path / "t"), small("cache.image_size=240"), BuildRequest(source=str(root)))
    assert open_store(tmp_path / "t").table.sources[0].content_hash != before


def dicom(tmp_path: Path, boxes: list[tuple[int, Box]]) -> Path:
    """A sector, and beside it a second one that is no image of the scan."""
    import pydicom
    from pydicom.dataset import Dataset

    frame = np.concatenate([speckled(sector()), speckled(sector(), seed=1)], 1)
    (tmp_path / "in").mkdir()
    file = tmp_path / "in/a.dcm"
    write_dicom(file, frame, "MONOCHROME2")
    data: Any = pydicom.dcmread(file)
    items = []
    for kind, box in boxes:
        item: Any = Dataset()
        item.RegionSpatialFormat, item.RegionDataType = kind, 1
        item.RegionLocationMinX0, item.RegionLocationMinY0 = box.left, box.top
        item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box.right - 1, box.bottom - 1
        items.append(item)
    data.SequenceOfUltrasoundRegions = items
    data.save_as(file)
    return tmp_path / "in"


LEFT = Box(0, 0, 240, 240)


def cells(true: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return cv2.resize(true.astype(np.uint8), (120, 120), interpolation=cv2.INTER_AREA) > 0


def test_a_sector_is_sought_within_dicoms_ultrasound_region(tmp_path: Path) -> None:
    root = dicom(tmp_path, [(1, LEFT), (3, Box(240, 0, 480, 240))])
    assert boxes_of(root / "a.dcm") == (LEFT,)
    true = np.pad(sector(), ((0, 0), (0, 240)))
    assert overlap(region_of(tmp_path, root), cells(true)) > 0.93


def test_regions_that_do_not_fit_the_frame_are_not_believed(tmp_path: Path) -> None:
    root = tmp_path / "all"
    root.mkdir()
    for i, box in enumerate((Box(0, 0, 640, 480), Box(0, 0, 30, 30), Box(235, 235, 245, 239))):
        (tmp_path / str(i)).mkdir()
        (dicom(tmp_path / str(i), [(1, box)]) / "a.dcm").rename(root / f"{i}.dcm")
    found = regions_of(tmp_path, root)
    assert found[:, :, 60:].any((1, 2)).tolist() == [True] * 3
