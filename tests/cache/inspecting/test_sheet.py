"""The contact sheet: doubtful rows first, one dataset, the frame as it was beside what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from tests.cache.frames.test_regions import sector, speckled
from tests.support.builds import small
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.errors import UsageError
from usjepa.cache.inspecting.doubts import doubts_of
from usjepa.cache.inspecting.sheet import _chosen, write_sheet
from usjepa.cache.reading.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = ("cache.image_size=240", "cache.views.count=1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six sectors with a white mark beside the scan, in two datasets, and one frame of echo to its edges."""
    root = tmp_path / "in"
    for number in range(6):
        frame = speckled(sector(), seed=number)
        frame[10:30, 200:230] = 255
        (root / f"set{number % 2}/none").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"set{number % 2}/none/{number}.png"), frame)
    cv2.imwrite(str(root / "set1/none/full.png"), speckled(np.ones((240, 240), bool)))
    return root


@pytest.fixture
def store(tmp_path: Path, folder: Path) -> str:
    build(str(tmp_path / "s"), small(*SETTINGS), BuildRequest(source=str(folder)))
    return str(tmp_path / "s")


def test_doubtful_rows_come_first_and_a_dataset_can_be_chosen(store: str) -> None:
    opened = open_store(store)
    doubts = doubts_of(opened).both
    (doubtful,) = doubts
    assert opened.origin_of(doubtful).source.path == "set1/none/full.png"
    assert doubts[doubtful] == "taken whole for the scan"
    assert _chosen(opened, doubts, 3, None)[0] == doubtful
    assert len(set(_chosen(opened, doubts, 64, None).tolist())) == 7
    assert {opened.origin_of(row).source.dataset for row in _chosen(opened, doubts, 64, "set0").tolist()} == {"set0"}
    with pytest.raises(UsageError, match=r"no rows of dataset 'lung'; its datasets are: set0, set1"):
        _chosen(opened, doubts, 3, "lung")


def test_the_frame_as_it_was_stands_beside_what_is_kept(tmp_path: Path, store: str, folder: Path) -> None:
    sheet = str(tmp_path / "sheet.png")
    args = ["inspect", store, "-o", sheet, "--dataset", "set0", "--source", str(folder)]
    ended = CliRunner().invoke(main, args)
    assert ended.exit_code == 0, ended.output
    shown = cv2.imread(sheet, cv2.IMREAD_GRAYSCALE)
    assert shown is not None
    assert shown.shape[1] == 3 * 230  # as it was, kept, region
    mark = slice(18 + 12, 18 + 26)
    assert shown[mark, 190:212].min() > 250
    assert shown[mark, 230 + 190 : 230 + 212].max() < 5


def test_without_sources_or_with_files_that_are_gone_a_sheet_is_drawn_all_the_same(
    tmp_path: Path, store: str, folder: Path
) -> None:
    write_sheet(store, str(tmp_path / "a.png"))
    (folder / "set0/none/0.png").unlink()
    write_sheet(store, str(tmp_path / "b.png"), source=str(folder), settings=small(*SETTINGS).cache)
    first, second = (cv2.imread(str(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first is not None
    assert second is not None
    assert second.shape[1] - first.shape[1] == 230
