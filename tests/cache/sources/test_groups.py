"""Groups: what is of one patient or clip stays together, and no name that restarts tears or joins anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import ValidationError

from tests.cache.sources.formats.dicom.test_dicom import write as write_dicom
from tests.support.builds import pictures
from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.recipes.recipe import Recipe
from usjepa.cache.scanning.scan import list_source, scan_report
from usjepa.cache.sources.base import Entry, packed_entries
from usjepa.cache.sources.grouping import _NUMBERED, BY_FILE, describe_groups

if TYPE_CHECKING:
    from pathlib import Path


def dicom(path: Path, patient: str, study: str = "", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24), dtype=np.uint8)
    return write_dicom(path, pixels, "MONOCHROME2", PatientID=patient, StudyInstanceUID=study)


def groups(root: Path, **settings: object) -> dict[str, str]:
    listing = list_source(str(root), CacheSettings.model_validate(settings))
    return {entry.path: entry.group for entry in listing.entries}


def test_a_name_that_restarts_in_every_folder_is_a_group_of_its_own_in_each(tmp_path: Path) -> None:
    pictures(tmp_path / "ds", [f"{s}/{c}/00{i}.png" for s in ("train", "test") for c in "ab" for i in range(3)])
    assert len(set(groups(tmp_path / "ds").values())) == 12
    report = scan_report(str(tmp_path / "ds"), Recipe())
    assert "now wholly test" not in report
    assert "groups: 12 sources in 12 groups, 1 each; from the file itself" in report


def test_the_last_number_of_a_uid_is_no_ending(tmp_path: Path) -> None:
    for i in range(4):
        dicom(tmp_path / f"ds/1.2.826.0.1.{i}", patient="")
    assert sorted(groups(tmp_path / "ds").values()) == [f"1.2.826.0.1.{i}" for i in range(4)]


def test_dicom_files_of_one_patient_are_one_group_wherever_they_lie(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    dicom(root / "liver/benign/IM1", "4711")
    dicom(root / "liver/malignant/IM1", " 4711 ")
    dicom(root / "liver/benign/IM2.dcm", "4712")
    dicom(root / "kidney/cyst/IM1", "4711")
    found = groups(root)
    assert found["liver/benign/IM1"] == found["liver/malignant/IM1"] == found["kidney/cyst/IM1"]
    assert len(set(found.values())) == 2
    said = scan_report(str(root), Recipe())
    assert "groups: 4 sources in 2 groups, 1 to 3 each; from PatientID of its header" in said


def test_a_patient_who_is_tested_in_one_dataset_is_trained_on_in_none(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    dicom(root / "liver/test/benign/IM1", "4711", seed=1)
    dicom(root / "kidney/cyst/IM1", "4711", seed=2)
    report = scan_report(str(root), Recipe())
    assert "now wholly test: 1" in report
    assert [line.split()[2] for line in report.splitlines() if line.startswith(("kidney", "liver"))] == ["test"] * 2


@pytest.mark.parametrize("blank", ["", "ANONYMOUS", "0000", "XXXX", "anon-17", "REMOVED", "unknown"])
def test_a_blanked_patient_number_joins_nobody_but_the_study_does(tmp_path: Path, blank: str) -> None:
    root = tmp_path / "ds"
    for name, study in (("a/1.dcm", "1.2.3"), ("a/2.dcm", "1.2.3"), ("b/1.dcm", "1.2.4"), ("b/2.dcm", "")):
        dicom(root / name, blank, study)
    found = groups(root)
    assert found["a/1.dcm"] == found["a/2.dcm"]
    assert len(set(found.values())) == 3
    assert found["b/2.dcm"] == "b/2"


def test_a_patients_group_bears_a_hash_only_where_there_is_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ds"
    dicom(root / "b.dcm", "4711")
    dicom(root / "a.dcm", "4711")
    monkeypatch.delenv("USJEPA_PATH_KEY", raising=False)
    assert set(groups(root).values()) == {"patient:a"}
    named = set()
    for secret in ("one", "two"):
        monkeypatch.setenv("USJEPA_PATH_KEY", secret)
        (group,) = set(groups(root).values())
        assert "4711" not in group
        assert group == next(iter(groups(root).values()))
        named.add(group)
    assert len(named) == 2


def test_an_unreadable_dicom_is_a_group_of_its_own_until_the_scan_says_why(tmp_path: Path) -> None:
    dicom(tmp_path / "ds/a.dcm", "1")
    (tmp_path / "ds/bad.dcm").write_bytes(b"no DICOM at all")
    assert groups(tmp_path / "ds")["bad.dcm"] == "bad"
    assert "bad.dcm: can't be read as DICOM" in scan_report(str(tmp_path / "ds"), Recipe())


def test_rules_of_the_recipe_take_the_place_of_what_the_data_says(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    pictures(root, ["train/p1/a_1.png", "test/p1/a_2.png", "train/p2/b_1.png"])
    (root / "manifest.csv").write_text("path,patient\ntrain/p1/a_1.png,x\ntest/p1/a_2.png,x\ntrain/p2/b_1.png,\n")
    assert list(groups(root).values()) == ["x", "x", "train/p2/b_1"]
    assert set(groups(root, group="file").values()) == {"train/p1/a_1", "test/p1/a_2", "train/p2/b_1"}
    assert sorted(groups(root, group="folder").values()) == ["p1", "p1", "p2"]
    assert sorted(groups(root, group=r"/([a-z]_)\d").values()) == ["a_", "a_", "b_"]
    assert sorted(groups(root, group=r"(?:train|test)/(p\d)/(\w)").values()) == ["p1/a", "p1/a", "p2/b"]


def test_a_path_that_the_expression_does_not_fit_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "ds", ["patient1.png", "odd.png"])
    with pytest.raises(UsageError, match=r"odd\.png: cache\.group='\(patient\\\\d\+\)' finds no group"):
        groups(tmp_path / "ds", group=r"(patient\d+)")


def test_insisting_on_patients_refuses_a_file_that_names_none(tmp_path: Path) -> None:
    dicom(tmp_path / "ds/a.dcm", "1")
    assert len(groups(tmp_path / "ds", group="dicom-patient")) == 1
    pictures(tmp_path / "ds", ["b.png"])
    with pytest.raises(UsageError, match=r"b\.png: cache\.group=dicom-patient, but this file names no patient"):
        groups(tmp_path / "ds", group="dicom-patient")


@pytest.mark.parametrize("rule", ["patient", "dicom_patient", "(", ""])
def test_a_misspelt_rule_is_refused_by_the_recipe(rule: str) -> None:
    with pytest.raises(ValidationError, match=r"parentheses|no regular expression"):
        CacheSettings(group=rule)


def test_names_that_look_like_frames_of_clips_are_pointed_out(tmp_path: Path) -> None:
    pictures(tmp_path / "ds", [f"{clip}_frame_{i:03d}.png" for clip in ("Cov-1", "Cov-2", "Reg-7") for i in range(3)])
    report = scan_report(str(tmp_path / "ds"), Recipe())
    assert "9 files are a group each, but their names fall into 3 numbered series" in report
    rule = report.partition("""cache.group=\"""")[2].partition('"')[0]
    assert sorted(set(groups(tmp_path / "ds", group=rule).values())) == ["Cov-1_frame", "Cov-2_frame", "Reg-7_frame"]


def test_images_in_one_file_are_one_group(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["y"], file["x/z"] = np.zeros((2, 16, 16), np.uint8), np.ones((3, 16, 16))
    assert set(groups(tmp_path).values()) == {"a"}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_said_of_groups_is_what_loops_over_entries_find(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(60):
        name = rng.choice(["a", "b", "clip-a_", "x", "12"]) + str(rng.integers(0, 30))
        path = f"{rng.choice(['p', 'q', 'p/r'])}/{name}.png"
        by_file = rng.random() < 0.8
        group = path[:-4] if by_file else f"g{i % 3}"
        made.append(Entry(path, str(rng.choice(["d", "e"])), group, "", "", "images", BY_FILE if by_file else "a list"))
    sizes: dict[str, dict[tuple[str, str], int]] = {}
    series: dict[str, dict[str, list[str]]] = {}
    for entry in made:
        mine = sizes.setdefault(entry.grouped_by, {})
        mine[entry.dataset, entry.group] = mine.get((entry.dataset, entry.group), 0) + 1
        folder, _, name = entry.path[:-4].rpartition("/")
        if entry.grouped_by == BY_FILE and (numbered := _NUMBERED.fullmatch(name)) is not None:
            series.setdefault(folder, {}).setdefault(numbered["series"], []).append(entry.path)
    several = [paths for found in series.values() if len(found) > 1 for paths in found.values() if len(paths) > 1]
    lines = describe_groups(packed_entries(made))
    assert lines == describe_groups(tuple(made))
    for source, groups in sizes.items():
        counts = f"{sum(groups.values())} sources in {len(groups)} groups"
        assert any(counts in line and line.endswith(f"from {source}") for line in lines)
    files = sum(map(len, several))
    if several and 2 * files >= sum(sizes[BY_FILE].values()):
        told = f"{files} files are a group each, but their names fall into {len(several)} numbered series, such as "
        assert f"{told}{several[0][0]} and {several[0][-1]}." in lines[-1]
    else:
        assert not any("warning" in line for line in lines)
