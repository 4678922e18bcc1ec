"""Claims about tasks of numbers: said by the option, never guessed; every cell that is no number is named."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.files.published import write_image
from tests.support.labelled import File, write_labelled
from tests.support.recipes import small_recipe
from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.tasks.find import find_tasks
from usjepa.evaluate.tasks.measurements import measured, number
from usjepa.evaluate.tasks.regression import Regression, open_regressions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from usjepa.cache.reading.store import Store

SMALL = small_recipe()


def opened(place: object, out: Path) -> Regression:
    (task,) = open_regressions([str(place)], out, SMALL)
    return task


def write_manifest(folder: Path, values: Sequence[object], column: str = "label", **more: Sequence[object]) -> Path:
    """Write an image for each value, two of each patient, and a manifest that lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, value in enumerate(values):
        write_image(folder / f"a{i}.png", i)
        line: dict[str, object] = {"path": f"a{i}.png", "patient_id": f"p{i // 2}", column: value}
        lines.append(line | {name: cells[i] for name, cells in more.items()})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return folder


def store_of(path: Path, labels: Sequence[str]) -> Store:
    return write_labelled(path, [File(label, f"p{i}") for i, label in enumerate(labels)])


def test_a_manifests_label_is_the_number_with_patients_and_the_unit_beside_it(tmp_path: Path) -> None:
    values = [round(30 + 1.5 * i, 1) for i in range(16)]
    folder = write_manifest(tmp_path / "hc", values, unit=["mm"] * 16)
    task = opened(folder, tmp_path / "out")
    assert (task.name, task.quantity, task.unit) == ("hc: label", "label", "mm")
    paths = [task.store.table.sources[i].path for i in task.clips.tolist()]
    assert [values[int(path.split("/")[-1][1:-4])] for path in paths] == task.values.tolist()
    assert len(set(task.groups.tolist())) == 8
    test, rest = (set(task.groups[task.splits == "test"].tolist()), set(task.groups[task.splits != "test"].tolist()))
    assert test
    assert not test & rest


@pytest.mark.parametrize("wanted", ["Head Circumference", "HC_mean"])
def test_a_column_is_named_in_any_case_with_or_without_its_unit(tmp_path: Path, wanted: str) -> None:
    column = "HC mean" if wanted == "HC_mean" else "Head circumference (mm)"
    folder = write_manifest(tmp_path / "hc", range(8), column)
    task = opened(f"{folder}#{wanted}", tmp_path / "out")
    assert task.unit == ("" if wanted == "HC_mean" else "mm")
    assert task.name.startswith("hc: h")
    assert any("names no unit" in note for note in task.notes) == (wanted == "HC_mean")


def test_without_a_label_the_column_must_be_named_and_is_never_chosen(tmp_path: Path) -> None:
    folder = write_manifest(tmp_path / "hc", range(8), "ef")
    with pytest.raises(UsageError, match=r"no column 'label'; it has `path`, `patient_id`, `ef`.*#COLUMN"):
        opened(folder, tmp_path / "out")
    with pytest.raises(UsageError, match="no column 'age'"):
        opened(f"{folder}#age", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("12,5", "write 12.5"),
        ("45 %", "'45 %' is no number"),
        ("4o", "'4o' is no number"),
        ("inf", "'inf' is no number"),
        ("1e999", "not within 1e-12 to 1e12"),
        ("-1e300", "not within"),
        ("1e-30", "not within"),
        ("1_000", "'1_000' is no number"),
        ("\u0661\u0662", "is no number"),
        ("0x1f", "is no number"),
        ("55.2.1", "is no number"),
    ],
)
def test_a_cell_that_is_no_number_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    values: list[object] = [50.5, 51, text, 52, 53, 54, text, 55]
    folder = write_manifest(tmp_path / "heart", values, "ef")
    with pytest.raises(UsageError) as error:
        opened(f"{folder}#ef", tmp_path / "out")
    assert "manifest.csv, line 4, ef: " in str(error.value)
    assert told in str(error.value)
    assert "So are 1 more" in str(error.value)


def test_a_cell_without_a_number_leaves_its_file_out_and_is_named(tmp_path: Path) -> None:
    values: list[object] = [50.5, 51, "", "NaN", 53, 54, " n/a ", 56]
    folder = write_manifest(tmp_path / "heart", values, "velocity (cm/s)")
    task = opened(f"{folder}#velocity", tmp_path / "out")
    assert (len(task), task.unit) == (5, "cm/s")
    lines = "; ".join(f"manifest.csv, line {line}, velocity (cm/s)" for line in (4, 5, 8))
    assert f"3 of 8 files have no number in heart: velocity and are left out: {lines}." in task.notes
    assert not any(str(tmp_path) in note for note in task.notes)


def test_a_column_without_any_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file in it has a number in `ef`"):
        opened(f"{write_manifest(tmp_path / 'heart', [''] * 6, 'ef')}#ef", tmp_path / "out")
    with pytest.raises(UsageError, match="no frame of it has a number"):
        opened(f"{write_manifest(tmp_path / 'other', ['nan'] * 6, 'ef')}#ef", tmp_path / "out")


def test_numbers_of_two_units_are_refused_with_the_line(tmp_path: Path) -> None:
    folder = write_manifest(tmp_path / "hc", range(6), "hc", unit=["mm", "mm", "cm", "mm", "mm", "mm"])
    with pytest.raises(UsageError, match=r"line 4: its unit is 'cm' where others have 'mm'"):
        opened(f"{folder}#hc", tmp_path / "out")


def test_one_or_two_patients_are_split_or_refused_in_words(tmp_path: Path) -> None:
    two = opened(write_manifest(tmp_path / "two", [40.5, 41, 60, 61]), tmp_path / "out")
    assert [len(two.positions(split)) for split in ("train", "validation", "test")] == [2, 0, 2]
    assert any("No frame is left for validation" in note for note in two.notes)
    with pytest.raises(UsageError, match="1 group leaves no frame for test"):
        opened(write_manifest(tmp_path / "one", [40.5, 41]), tmp_path / "out")


def test_numbers_that_look_like_codes_and_values_that_never_vary_are_told(tmp_path: Path) -> None:
    codes = opened(write_manifest(tmp_path / "codes", [0, 0, 1, 1, 2, 2, 1, 1]), tmp_path / "out")
    assert any("3 values, all whole (0, 1, 2). If they are codes of classes" in note for note in codes.notes)
    flat = opened(write_manifest(tmp_path / "flat", [55.5] * 8), tmp_path / "out")
    assert "All frames of test have the value 55.5." in flat.notes


def test_classes_that_are_numbers_are_told_and_decimals_are_refused(tmp_path: Path) -> None:
    (task,) = find_tasks(store_of(tmp_path / "codes.zarr", ["0", "1.0"] * 12), EvaluateSettings()).tasks
    assert any("2 labels are whole numbers (0, 1.0) and are taken for codes of classes" in note for note in task.notes)
    with pytest.raises(UsageError, match=r"its labels are numbers .* and no classes: --regress predicts numbers"):
        find_tasks(store_of(tmp_path / "ef.zarr", [str(40.5 + i) for i in range(24)]), EvaluateSettings())
    (named,) = find_tasks(store_of(tmp_path / "named.zarr", ["1", "two"] * 12), EvaluateSettings()).tasks
    assert not any("whole numbers" in note for note in named.notes)


def test_a_stores_labels_are_numbers_and_one_that_is_none_is_named_with_its_path(tmp_path: Path) -> None:
    store_of(tmp_path / "s.zarr", [str(40.5 + i) for i in range(12)])
    task = opened(tmp_path / "s.zarr", tmp_path / "out")
    assert (task.name, len(task), task.layout) == ("toy: label", 12, "store")
    store_of(tmp_path / "w.zarr", ["40.5", "mild", *map(str, range(10))])
    with pytest.raises(UsageError, match=r"w\.zarr, toy: toy/0001\.png, label: 'mild' is no number"):
        opened(tmp_path / "w.zarr", tmp_path / "out")
    with pytest.raises(UsageError, match="a store keeps one label of a file"):
        opened(f"{tmp_path / 's.zarr'}#ef", tmp_path / "out")
    store_of(tmp_path / "n.zarr", [""] * 6)
    with pytest.raises(UsageError, match="no file in it has a label"):
        opened(tmp_path / "n.zarr", tmp_path / "out")


def test_the_identity_changes_with_a_number_a_unit_or_a_split(tmp_path: Path) -> None:
    store_of(tmp_path / "s.zarr", [str(40.5 + i) for i in range(8)])
    task = opened(tmp_path / "s.zarr", tmp_path / "out")
    other, moved = task.values.copy(), task.splits.copy()
    other[3] += 0.5
    moved[task.positions("train")[0]] = "validation"
    assert replace(task).identity == task.identity
    changes: tuple[dict[str, Any], ...] = ({"values": other}, {"splits": moved}, {"unit": "mm"}, {"quantity": "ef"})
    for changed in changes:
        assert replace(task, **changed).identity != task.identity


def test_numbers_and_their_absence_are_told_apart() -> None:
    assert [number(text) for text in ("55.2", " 3 ", "-.5", "1e-3", "0", "+7.")] == [55.2, 3.0, -0.5, 0.001, 0.0, 7.0]
    assert [number(text) for text in ("", "NaN", "None", "?")] == [None] * 4


def write_echonet(folder: Path, clips: int = 12, ending: str = "") -> Path:
    """Write EchoNet-Dynamic's list beside stills in the clips' place: names, EF, volumes and splits are read alike."""
    lines = ["FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split"]
    (folder / "Videos").mkdir(parents=True)
    for i in range(clips):
        split = ("TRAIN", "TRAIN", "VAL", "TEST")[i % 4]
        lines.append(f"0X{i:X}{ending},{30 + 2.5 * i},{20.5 + i},{100 + i},112,112,50,1,{split}")
    (folder / "FileList.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("ending", ["", ".avi"])
def test_echonets_list_gives_ef_in_percent_and_volumes_in_millilitres(tmp_path: Path, ending: str) -> None:
    folder = write_echonet(tmp_path / "EchoNet-Dynamic", ending=ending)
    found = measured(folder, None)
    assert found is not None
    assert (found.quantity, found.unit) == ("EF", "%")
    cell = found.cell("Videos/0XA.avi")
    assert cell is not None
    assert (cell.text, cell.where.endswith("FileList.csv, line 12, ef")) == ("55.0", True)
    volumes = measured(folder, "esv")
    assert volumes is not None
    assert (volumes.quantity, volumes.unit) == ("ESV", "mL")
    assert found.cell("Videos/0XFF.avi") is None


def test_a_clip_of_two_values_in_its_list_is_refused(tmp_path: Path) -> None:
    folder = write_echonet(tmp_path / "EchoNet-Dynamic")
    with (folder / "FileList.csv").open("a") as file:
        file.write("0X3,99,20,100,112,112,50,1,TRAIN\n")
    with pytest.raises(UsageError, match=r"line 14: ef is '99', where another line says '37\.5' of the same file"):
        measured(folder, None)


def test_numbers_of_frames_of_several_files_and_splits_are_those_of_their_files(tmp_path: Path) -> None:
    folder = write_manifest(
        tmp_path / "ga",
        [100, 101, 140, 141, 180, 181, 220, 221],
        "ga (days)",
        split=["train"] * 4 + ["val"] * 2 + ["test"] * 2,
    )
    task = opened(f"{folder}#ga", tmp_path / "out")
    assert task.values[task.positions("test")].tolist() == [220, 221]
    assert task.values[task.positions("validation")].tolist() == [180, 181]
    assert (task.quantity, task.unit, task.origin["test"]) == ("ga", "days", "given by the data")
    assert np.array_equal(task.frames(task.positions("test")).rows, task.rows[task.positions("test")])
