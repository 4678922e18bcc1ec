"""Claims about what a published task does not say loudly: patients in names, lists that lack, folders too far up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import document, page
from tests.support.files.published import write_busbra, write_image, write_ultrabench
from tests.support.labelled import File, write_labelled
from tests.support.recipes import small_recipe
from usjepa.cache.errors import UsageError, WholeFrameError
from usjepa.cache.recipes.cache import PreprocessSettings
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.checking.hygiene import facts_of
from usjepa.evaluate.tasks.find import find_tasks, open_tasks
from usjepa.evaluate.tasks.layouts import recognise
from usjepa.evaluate.tasks.name_groups import name_codes
from usjepa.evaluate.tasks.segmentation import open_segmentations

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.tasks.find import Found

SMALL = small_recipe()
THREE = {"train": range(12), "validation": range(12, 16), "test": range(16, 24)}


def found(place: object, out: Path, recipe: Recipe = SMALL) -> Found:
    return open_tasks([str(place)], out, recipe)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pneu_liftl_pneu_case3_clip5.mp4", "Pneu_liftl_pneu_case3_clip1.mp4"),
        ("pat2_frame003.png", "images/Pat02_frame117.png"),
        ("Vir_northumbria_1009_clip2.mp4", "vir-northumbria-1009-clip4.mp4"),
        ("Subject 7/still.png", "study subject_7.jpg") if False else ("subject-7 a.png", "Subject_007 b.jpg"),
        ("reg_17_view1", "reg_17_view2"),
    ],
)
def test_names_that_tell_one_patient_are_known(one: str, other: str) -> None:
    codes = name_codes([one, other])
    assert codes[0] == codes[1] >= 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("liftl_case3_clip5", "liftl_case31_clip5"),
        ("Cov-Atlas+(44).gif", "Cov-Atlas+(45).gif"),  # a series of a publication need not be one patient
        ("atlas_clip1", "atlas_clip2"),
        ("image_12.png", "image_13.png"),
        ("heart_0012.png", "heart_0013.png"),
        ("showcase1_clip1", "showcase1x_clip2"),
        ("", ""),
    ],
)
def test_names_that_tell_no_patient_or_two_are_not(one: str, other: str) -> None:
    codes = name_codes([one, other])
    assert codes[0] != codes[1] or codes[0] == -1


def test_patients_that_only_names_tell_are_counted_beside_the_score(tmp_path: Path) -> None:
    sources = [f"pneu_case{i % 8}_clip{i}.mp4" for i in range(24)]  # each case three clips, one of them in test
    write_ultrabench(tmp_path / "pocus_v1", [i % 3 for i in range(24)], THREE, {"source": sources})
    (task,) = found(tmp_path / "pocus_v1", tmp_path / "out").tasks
    leakage = facts_of(task).leakage
    assert (leakage.groups, leakage.named, leakage.test_frames) == (0, 8, 8)
    assert leakage.found
    (told,) = [one for one in leakage.sentences() if one.startswith("Leak by names")]
    assert "those of 8 of 8 test frames suggest a patient" in told


def test_patients_that_the_data_names_itself_are_not_guessed_again(tmp_path: Path) -> None:
    patients = {"patient": [f"case{i // 4}" for i in range(24)]}
    write_ultrabench(tmp_path / "camus_v1", [i % 3 for i in range(24)], THREE, patients)
    (task,) = found(tmp_path / "camus_v1", tmp_path / "out").tasks
    assert facts_of(task).leakage.named == 0
    assert task.ungrouped == 0


def test_the_page_says_patients_are_kept_apart_only_where_the_data_names_them() -> None:
    made = document()
    assert "groups (patients or clips) are kept apart. Other encoders" in page(made).replace("\n", " ")
    made["tasks"][0]["ungrouped"] = 30
    made["tasks"][0]["hygiene"]["frames"] = 30
    told = page(made).replace("\n", " ")
    assert "where the data names them, but on lung patients are not known for every file" in told
    made["tasks"][0]["ungrouped"] = 0
    made["tasks"][0]["leakage"]["named"] = 234
    told = page(made).replace("\n", " ")
    assert "but on lung names suggest that patients of 234 test frames are in training too" in told
    assert "patients kept apart" not in told


def test_files_without_a_patient_are_counted(tmp_path: Path) -> None:
    files = [File("ab"[i % 2], f"p{i}" if i < 10 else "") for i in range(24)]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files), EvaluateSettings()).tasks
    assert task.ungrouped == 14


def test_a_lost_list_of_validation_images_is_told(tmp_path: Path) -> None:
    write_ultrabench(tmp_path / "camus_v1.0.1", [i % 3 for i in range(24)], THREE, {"patient": list(range(24))})
    (tmp_path / "camus_v1.0.1" / "validation.json").unlink()
    (task,) = found(tmp_path / "camus_v1.0.1", tmp_path / "out").tasks
    assert "validation.json is not there: the images that it lists are left out." in task.notes


def test_tasks_that_are_passed_over_are_named(tmp_path: Path) -> None:
    for name in ("camus_v1", "aul_liver_v1"):
        write_ultrabench(tmp_path / "all" / name, [i % 2 for i in range(24)], THREE, {"patient": list(range(24))})
    made = found(tmp_path / "all", tmp_path / "out")
    assert [task.name for task in made.tasks] == ["camus"]
    assert made.left_out == ["aul_liver: passed over, it asks for segmentations alone (--segment)."]


def test_classes_have_the_names_that_the_items_give(tmp_path: Path) -> None:
    folder = tmp_path / "fatty_liver_v1"
    pathology: list[object] = [("healthy", "fatty")[i % 2] for i in range(24)]
    names = {"pathology": pathology, "patient": list[object](range(24))}
    write_ultrabench(folder, [i % 2 for i in range(24)], THREE, names)
    (task,) = found(folder, tmp_path / "out").tasks
    assert task.classes == ("fatty", "healthy")
    items = json.loads((folder / "test.json").read_text())
    items[0]["pathology"] = "other"  # two names of one number: neither is taken
    (folder / "test.json").write_text(json.dumps(items))
    (task,) = found(folder, tmp_path / "out").tasks
    assert task.classes == ("0", "1")


def test_a_mask_that_is_nan_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "aul_liver_v1"
    write_ultrabench(folder, [0] * 24, THREE, {"patient": list(range(24))}, {"liver_mask": (1,)})
    text = (folder / "test.json").read_text()
    items = json.loads(text)
    (folder / "test.json").write_text(text.replace(json.dumps(items[0]["liver_mask"]), "NaN", 1))
    (task,) = open_segmentations([str(folder)], tmp_path / "out", SMALL)
    assert len(task.positions("test")) == 7


@pytest.mark.slow
def test_a_split_that_stage_one_dealt_is_not_called_the_datas_and_holds_for_masks_too(tmp_path: Path) -> None:
    write_busbra(tmp_path / "BUSBRA", [(i, ("benign", "malignant")[i % 2]) for i in range(40)])
    recipe = SMALL.model_copy(update={"cache": SMALL.cache.model_copy(update={"test_fraction": 0.3})})
    (task,) = found(tmp_path / "BUSBRA", tmp_path / "out", recipe).tasks
    assert task.origin["test"] == "set aside by stage one, by hash of the group"
    (masks,) = open_segmentations([str(tmp_path / "BUSBRA")], tmp_path / "out", recipe)
    assert set(masks.rows[masks.positions("test")].tolist()) == set(task.rows[task.positions("test")].tolist())
    (plain,) = found(tmp_path / "BUSBRA", tmp_path / "other").tasks
    assert plain.origin["test"] == "dealt by group and class"


@pytest.mark.parametrize("depth", ["x", "x/y"])
def test_a_folder_too_far_up_is_refused_and_the_tasks_below_are_named(tmp_path: Path, depth: str) -> None:
    write_ultrabench(tmp_path / "up" / depth / "camus_v1", [i % 3 for i in range(24)], THREE)
    if depth == "x":
        write_busbra(tmp_path / "up" / "BUSBRA", [(i, "benign") for i in range(4)])
        with pytest.raises(UsageError, match=r"up: holds published tasks further down: BUSBRA \(busbra\)"):
            recognise(str(tmp_path / "up"), SMALL.cache)
        assert [folder.name for folder in recognise(str(tmp_path / "up" / "x"), SMALL.cache)] == ["camus"]
        return
    with pytest.raises(UsageError, match=r"further down: x/y \(ultrabench\)\. Name such a folder itself"):
        recognise(str(tmp_path / "up"), SMALL.cache)


def test_images_and_masks_are_no_classes(tmp_path: Path) -> None:
    for folder in ("images", "scan"):
        for i in range(4):
            write_image(tmp_path / "set" / folder / f"{i}.png", i + 10 * (folder == "scan"))
    with pytest.raises(UsageError, match=r"images, scan would be the classes, and they are images and masks"):
        recognise(str(tmp_path / "set"), SMALL.cache)


def test_images_of_a_benchmark_without_a_border_are_scored_and_those_of_a_folder_stop_what_cuts_them(
    tmp_path: Path,
) -> None:
    strict = SMALL.model_copy(update={"cache": SMALL.cache.model_copy(update={"preprocess": PreprocessSettings()})})
    write_busbra(tmp_path / "busbra", [(case, "benign" if case % 2 else "malignant") for case in range(12)])
    assert len(found(tmp_path / "busbra", tmp_path / "out", strict).tasks) == 1
    for i in range(4):
        write_image(tmp_path / "mine" / ("a", "b")[i % 2] / f"{i}.png", i)
    with pytest.raises(WholeFrameError, match=r"cache\.preprocess\.whole=keep"):
        found(tmp_path / "mine", tmp_path / "out", strict)
