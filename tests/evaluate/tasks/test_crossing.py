"""Claims about tasks of two places: all training from one, all testing from the other, nothing mixed up in silence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from tests.support.evaluations import FAST, call, export_run
from tests.support.labelled import File, patients, write_labelled
from tests.support.recipes import small_recipe
from usjepa.cache.errors import UsageError
from usjepa.evaluate.checking.hygiene import facts_of
from usjepa.evaluate.tasks.crossing import add_crossed
from usjepa.evaluate.tasks.find import Found

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.evaluate.tasks.task import Task

SMALL = small_recipe()
SETS_ASIDE = SMALL.model_copy(update={"cache": SMALL.cache.model_copy(update={"test_fraction": 0.5})})
UPPER, LEFT = "upper", "left"
"""Which half of a frame is bright: contrast is stretched, so brightness alone would not tell folders apart."""


def crossed(train: object, test: object, out: Path, recipe: object = SMALL) -> Task:
    (task,) = add_crossed(Found([], []), [(str(train), str(test))], out, recipe).tasks  # type: ignore[arg-type]
    return task


def class_folders(folder: Path, half: str, classes: str = "ab", count: int = 4, more: str = "") -> Path:
    """Write stills with a bright half, by class; their names are the same in every folder."""
    for letter in classes:
        (folder / more / letter).mkdir(parents=True)
        for n in range(count):
            grey = np.random.default_rng(n).integers(30, 70, (48, 48))
            grey[(slice(24), slice(None)) if half == UPPER else (slice(None), slice(24))] += 120
            assert cv2.imwrite(str(folder / more / letter / f"{n}.png"), grey.astype(np.uint8))
    return folder


def rows_of(task: Task, part: str) -> NDArray[np.int64]:
    return task.rows[task.splits == part]


def is_left(task: Task, rows: NDArray[np.int64]) -> list[bool]:
    """Return of each row whether it is brighter on the left than above."""
    pixels_BSS = task.store.read(rows, layers=("pixels",)).pixels[:, 0].astype(float)
    half = pixels_BSS.shape[-1] // 2
    found = pixels_BSS[:, :, :half].mean(axis=(1, 2)) > pixels_BSS[:, :half].mean(axis=(1, 2))
    return [bool(one) for one in found]


def test_every_frame_of_one_folder_trains_and_every_one_of_the_other_is_tested(tmp_path: Path) -> None:
    # The recipe deals half of a folder's groups to a test of its own: that is no split of these data.
    task = crossed(
        class_folders(tmp_path / "dark", UPPER), class_folders(tmp_path / "bright", LEFT), tmp_path / "out", SETS_ASIDE
    )
    assert task.name == "dark to bright"
    assert is_left(task, rows_of(task, "test")) == [True] * 8
    assert is_left(task, task.rows[task.splits != "test"]) == [False] * 8
    assert set(task.splits) == {"train", "validation", "test"}
    assert len(np.unique(task.groups)) == 16  # files of equal names are not one patient
    told = facts_of(task).sentences()
    assert "Trained on dark and tested on bright, which are two places." in told
    assert task.ungrouped == 16
    assert task.notes == ("Trained on dark and tested on bright, which are two places.",)


def test_labels_follow_their_names_where_one_place_has_fewer_classes(tmp_path: Path) -> None:
    train = class_folders(tmp_path / "train", UPPER, "abc")
    test = class_folders(tmp_path / "test", LEFT, "bc")
    task = crossed(train, test, tmp_path / "out")
    assert task.classes == ("a", "b", "c")
    where = task.positions("test")
    sources = task.store.table.source[np.searchsorted(task.store.rows, task.rows)][where]
    paths = [task.store.table.sources[n].path[0] for n in sources]
    assert [task.classes[n] for n in task.labels[where]] == paths
    assert "The test has no frame of a, which training knows." in task.notes


def test_each_place_gives_the_split_that_it_is_asked_for_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    splits = ["train", "train", "val", "test"]
    files = [File("ab"[i % 2], f"p{i // 2}", splits[i // 2 % 4], dataset="one") for i in range(32)]
    other = [File("ab"[i % 2], f"q{i // 2}", splits[i // 2 % 4], dataset="two") for i in range(48)]
    write_labelled(tmp_path / "a.zarr", files)
    write_labelled(tmp_path / "b.zarr", other)
    task = crossed(tmp_path / "a.zarr", tmp_path / "b.zarr", tmp_path)
    assert [int((task.splits == part).sum()) for part in ("train", "validation", "test")] == [16, 8, 12]
    assert "8 of 32 labelled frames of one are left out: it sets them aside for its own test." in task.notes
    assert "36 of 48 labelled frames of two are left out: they are not of its test split." in task.notes
    assert task.origin["validation"] == "given by the data"
    assert task.origin["test"] == "the frames of --test-task"


def test_labels_that_are_missing_are_no_class_of_either_place(tmp_path: Path) -> None:
    files = [*patients(8, ["a", "b", "nan"], dataset="one"), *patients(2, ["NA"], dataset="two")]
    write_labelled(tmp_path / "a.zarr", files)
    write_labelled(tmp_path / "b.zarr", patients(6, ["a", "b", "null"]))
    task = crossed(tmp_path / "a.zarr", tmp_path / "b.zarr", tmp_path)
    assert (task.classes, task.unlabelled) == (("a", "b"), 14)


def test_one_place_is_not_two_by_whatever_path_it_is_named(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "clinic", UPPER)
    lines = [f"{letter}/{n}.png,{letter}" for letter in "ab" for n in range(4)]
    (folder / "list.csv").write_text("\n".join(("path,label", *lines)) + "\n")
    (tmp_path / "link").symlink_to(folder)
    for other in (folder, f"{folder}/", tmp_path / "link", folder / "list.csv"):
        with pytest.raises(UsageError, match=r"clinic and --test-task .* are one data set: .*--task .*clinic trains"):
            crossed(folder, other, tmp_path / "out")
    write_labelled(tmp_path / "s.zarr", patients(8, ["a", "b"], dataset="lung"))
    with pytest.raises(UsageError, match="are one data set"):
        crossed(tmp_path / "s.zarr", f"{tmp_path / 's.zarr'}::lung", tmp_path)


def test_two_datasets_of_one_store_are_crossed_without_a_copy(tmp_path: Path) -> None:
    files = patients(8, ["a", "b"], dataset="lung") + patients(6, ["a", "b"], dataset="liver")
    write_labelled(tmp_path / "s.zarr", files)
    task = crossed(f"{tmp_path / 's.zarr'}::lung", f"{tmp_path / 's.zarr'}::liver", tmp_path)
    assert task.name == "lung to liver"
    assert len(task.store.parts) == 1
    datasets = task.store.table.dataset[np.searchsorted(task.store.rows, task.rows)].astype(str)
    assert set(datasets[task.splits == "test"]) == {"liver"}
    assert set(datasets[task.splits != "test"]) == {"lung"}


def test_patients_of_equal_names_are_told(tmp_path: Path) -> None:
    write_labelled(tmp_path / "a.zarr", patients(8, ["a", "b"], dataset="one"))
    write_labelled(tmp_path / "b.zarr", patients(6, ["a", "b"], dataset="two"))
    task = crossed(tmp_path / "a.zarr", tmp_path / "b.zarr", tmp_path)
    (told,) = [note for note in task.notes if "leak" in note]
    assert told.startswith("Perhaps a leak: 6 of 6 patients or clips of the test bear a name that training has, too (")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (patients(6, ["a", "z"]), "its labels z do not occur in --train-task .*a.zarr, which has a, b"),
        (patients(6, ["a"]), "--test-task .*b.zarr: all its frames are 'a'; two classes are needed"),
        (
            patients(6, ["a", "b"], dataset="x") + patients(6, ["a", "b"], dataset="y"),
            r"holds several datasets \(x, y\)\. Pick one: --test-task .*b.zarr::x",
        ),
        ([File("", f"p{i}") for i in range(6)], "--test-task .*b.zarr: no frame has a label"),
    ],
    ids=["a label that training lacks", "one class", "several datasets", "no labels"],
)  # fmt: skip
def test_what_can_not_be_tested_is_refused_with_the_side_and_the_remedy(
    files: list[File], expected: str, tmp_path: Path
) -> None:
    write_labelled(tmp_path / "a.zarr", patients(8, ["a", "b"]))
    write_labelled(tmp_path / "b.zarr", files)
    with pytest.raises(UsageError, match=expected):
        crossed(tmp_path / "a.zarr", tmp_path / "b.zarr", tmp_path)


def test_a_training_place_that_is_all_test_is_refused(tmp_path: Path) -> None:
    write_labelled(tmp_path / "a.zarr", [File("ab"[i % 2], f"p{i}", "test") for i in range(8)])
    write_labelled(tmp_path / "b.zarr", patients(8, ["a", "b"]))
    with pytest.raises(UsageError, match=r"no labelled frame is left to take part\. 8 of 8 labelled frames"):
        crossed(tmp_path / "a.zarr", tmp_path / "b.zarr", tmp_path)


def test_a_report_is_made_again_when_only_names_of_patients_change(tmp_path: Path) -> None:
    write_labelled(tmp_path / "s.zarr", patients(4, ["a", "b"]))
    export_run(tmp_path / "run", tmp_path / "s.zarr")
    train, test = class_folders(tmp_path / "clinic", UPPER), class_folders(tmp_path / "ward", LEFT)
    given = ("--train-task", train, "--test-task", test, "-o", tmp_path / "out", *FAST)
    told = []
    for ward in ("ward", "clinic"):
        for folder, named in ((train, "clinic"), (test, ward)):
            lines = [f"{letter}/{n}.png,{letter},{named}{letter}{n}" for letter in "ab" for n in range(4)]
            (folder / "manifest.csv").write_text("\n".join(("path,label,patient", *lines)) + "\n")
        made = call(tmp_path / "run", *given, "--set", "evaluate.baselines=[]")
        assert made.exit_code == 0, made.output
        assert "finished by an earlier call" not in made.output
        told.append(json.loads((tmp_path / "out/scores.json").read_text())["tasks"][0])
    assert [any("Perhaps a leak" in note for note in task["notes"]) for task in told] == [False, True]
    assert told[0]["identity"] == told[1]["identity"]  # the same frames, which `compare` pairs


def test_a_report_scores_two_folders_as_one_task_and_needs_both_options(tmp_path: Path) -> None:
    train, test = class_folders(tmp_path / "clinic", UPPER), class_folders(tmp_path / "ward", LEFT)
    write_labelled(tmp_path / "s.zarr", patients(4, ["a", "b"]))
    export_run(tmp_path / "run", tmp_path / "s.zarr")
    alone = call(tmp_path / "run", "--train-task", train, "-o", tmp_path / "out", *FAST)
    assert alone.exit_code == 2
    assert "--train-task is given 1 times and --test-task 0 times: each needs the other." in alone.output
    made = call(tmp_path / "run", "--train-task", train, "--test-task", test, "-o", tmp_path / "out", *FAST)
    assert made.exit_code == 0, made.output
    document = json.loads((tmp_path / "out/scores.json").read_text())
    (task,) = document["tasks"]
    assert (task["name"], task["layout"]) == ("clinic to ward", "crossed")
    assert task["counts"]["test"]["frames"] == 8
    again = call(tmp_path / "run", "--train-task", train, "--test-task", test, "-o", tmp_path / "out", *FAST)
    assert "finished by an earlier call" in again.output
