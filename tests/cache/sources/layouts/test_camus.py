"""CAMUS as published is scanned whole: frames upright, patients as groups, masks never taken for frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.files.volumes import SPACING, echo, write_camus
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.recipes.recipe import Recipe
from usjepa.cache.scanning.scan import list_source, scan_all, scan_report
from usjepa.cache.sources.base import Spacing
from usjepa.cache.sources.files.reader import SourceReader

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = CacheSettings()


def nifti(root: Path) -> None:
    for seed, patient in enumerate(("patient0001", "patient0002")):
        write_camus(root / "database_nifti", patient, ".nii.gz", seed=seed)
    (root / "database_split").mkdir()
    (root / "database_split" / "subgroup_training.txt").write_text("patient0001\n")
    (root / "database_split" / "subgroup_testing.txt").write_text("patient0002\n")


def mhd(root: Path) -> None:
    write_camus(root / "training", "patient0001", ".mhd", seed=0)
    write_camus(root / "testing", "patient0001", ".mhd", seed=1)


@pytest.mark.parametrize("write", [nifti, mhd])
def test_camus_gives_upright_frames_of_patients_and_no_masks(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path / "CAMUS")
    listing = list_source(str(tmp_path / "CAMUS"), SETTINGS)
    scanned = scan_all(listing, SETTINGS, None, "stop")
    table = scanned.table
    assert len(table) == 6
    assert not scanned.imageless.any()
    assert table.frames.tolist() == [1, 1, 5] * 2
    assert set(zip(table.height, table.width, strict=True)) == {(48, 32)}
    assert not any("_gt" in path for path in table.path)
    assert sorted(zip(table.split.tolist(), table.group.tolist(), strict=True))[::3] == [
        ("test", table.group[table.split == "test"][0]),
        ("train", table.group[table.split == "train"][0]),
    ]
    reader = SourceReader.of(listing, SETTINGS)
    for place in range(len(table)):
        seed = int(table.split[place] == "test")
        shown = echo(5, seed=seed)[{1: [-1 if "_ES" in table.path[place] else 0], 5: range(5)}[table.frames[place]]]
        found = list(
            reader.frames(table.path[place], table.reader[place], range(len(shown)), table.content_hash[place])
        )
        assert np.array_equal(found, shown)
        assert reader.probe(table.path[place], table.reader[place]).spacing == pytest.approx(
            Spacing(SPACING[1], SPACING[0])
        )


@pytest.mark.parametrize("ending", [".nii.gz", ".mhd"])
def test_masks_of_a_patients_folder_alone_are_left_out_too(tmp_path: Path, ending: str) -> None:
    write_camus(tmp_path / "odd", "p1", ending)
    report = scan_report(str(tmp_path), Recipe())
    assert "masks and label maps beside images were left out: 3" in report
    assert ".raw" not in report  # samples of the headers, not files of a kind that is not read
    listing = list_source(str(tmp_path), SETTINGS)
    assert [entry.path.rpartition("/")[2].partition(".")[0] for entry in listing.entries] == [
        "p1_2CH_ED",
        "p1_2CH_ES",
        f"p1_2CH_{'half_' if ending == '.nii.gz' else ''}sequence",
    ]


def test_folders_of_nnunet_keep_labels_out_and_the_test_set_apart(tmp_path: Path) -> None:
    from tests.support.files.volumes import write_volume

    for part in ("Tr", "Ts"):
        write_volume(tmp_path / f"images{part}" / "case_0000.nii.gz", echo())
        write_volume(tmp_path / f"labels{part}" / "case.nii.gz", (echo() > 0).astype(np.uint8) * 200)
    listing = list_source(str(tmp_path), SETTINGS)
    assert [(entry.path, entry.split) for entry in listing.entries] == [
        ("imagesTr/case_0000.nii.gz", "train"),
        ("imagesTs/case_0000.nii.gz", "test"),
    ]
