"""Claims about tasks: whole groups, every class in every part where it can be, and nothing hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.labelled import File, patients, write_labelled
from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.cache.recipes.recipe import Recipe
from usjepa.evaluate.checking.hygiene import facts_of
from usjepa.evaluate.tasks.find import find_tasks, open_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.evaluate.tasks.task import Task

SETTINGS = EvaluateSettings()


def groups(task: Task, split: str) -> set[int]:
    return set(task.groups[task.positions(split)].tolist())


def test_groups_never_straddle_and_every_class_is_in_every_part(tmp_path: Path) -> None:
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", patients(30, ["cyst", "none"])), SETTINGS).tasks
    parts = [groups(task, split) for split in ("train", "validation", "test")]
    assert all(parts)
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 30
    for split in ("train", "validation", "test"):
        assert set(task.labels[task.positions(split)]) == {0, 1}


def test_only_the_plain_view_is_scored_and_unlabelled_frames_are_counted(tmp_path: Path) -> None:
    files = [*patients(12, ["cyst", "none"]), File("", "patient-x"), File("", "patient-y")]
    store = write_labelled(tmp_path / "s.zarr", files, views=2)
    (task,) = find_tasks(store, SETTINGS).tasks
    assert len(task.rows) == 24
    assert set(store.table.view[np.searchsorted(store.rows, task.rows)]) == {0}
    assert task.unlabelled == 2
    assert "2 of 26 frames have no label and are left out." in facts_of(task).sentences()


@pytest.mark.parametrize("nothing", ["nan", "NaN", "na", "N/A", "null", "<NA>"])
def test_what_pandas_writes_for_a_missing_label_is_no_class_and_is_counted(tmp_path: Path, nothing: str) -> None:
    files = [*patients(12, ["cyst", "none"]), File(nothing, "patient-x"), File(nothing, "patient-y")]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files), SETTINGS).tasks
    assert task.classes == ("cyst", "none")
    assert "2 of 26 frames have no label and are left out." in facts_of(task).sentences()


def test_a_class_of_few_groups_reaches_every_part(tmp_path: Path) -> None:
    files = [File("common", f"c{i}") for i in range(40)] + [File("rare", f"r{i}") for i in range(3)]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files), SETTINGS).tasks
    rare = task.classes.index("rare")
    for split in ("train", "validation", "test"):
        assert (task.labels[task.positions(split)] == rare).sum() == 1
    assert task.origin == {"test": "dealt by group and class", "validation": "dealt by group and class"}
    told = facts_of(task).sentences()
    assert any("Too few examples: rare is tested on 1 frames of 1 group;" in sentence for sentence in told)
    assert any("Too few examples: rare is trained on 1 frames of 1 group." in sentence for sentence in told)


def test_parts_hold_about_the_asked_share_of_every_class(tmp_path: Path) -> None:
    files = [File("common", f"c{i}") for i in range(100)] + [File("rare", f"r{i}") for i in range(20)]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files), SETTINGS).tasks
    for number, groups_of_class in enumerate((100, 20)):
        tested = int((task.labels[task.positions("test")] == number).sum())
        assert tested == groups_of_class * SETTINGS.test_fraction


def test_the_split_does_not_depend_on_the_order_of_the_files(tmp_path: Path) -> None:
    files = patients(30, ["a", "b"])
    (one,) = find_tasks(write_labelled(tmp_path / "a.zarr", files), SETTINGS).tasks
    (other,) = find_tasks(write_labelled(tmp_path / "b.zarr", files[::-1]), SETTINGS).tasks
    assert (one.splits == other.splits[::-1]).all()


def test_a_class_of_one_group_is_told_to_be_missing_from_the_other_parts(tmp_path: Path) -> None:
    files = [*patients(20, ["a", "b"]), File("lone", "only")]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files), SETTINGS).tasks
    told = set(facts_of(task).sentences())
    assert {"No example of lone in validation.", "No example of lone in test."} <= told


def test_growing_a_task_moves_only_groups_next_to_the_cut(tmp_path: Path) -> None:
    (small,) = find_tasks(write_labelled(tmp_path / "a.zarr", patients(30, ["a", "b"])), SETTINGS).tasks
    (large,) = find_tasks(write_labelled(tmp_path / "b.zarr", patients(50, ["a", "b"])), SETTINGS).tasks
    moved = large.splits[:60] != small.splits
    assert len(set(small.groups[moved].tolist())) <= 3
    assert not moved.all()


def test_a_given_test_split_is_kept_and_its_leaks_are_counted(tmp_path: Path) -> None:
    files = [File("ab"[i % 2], f"p{i // 4}", "test" if i >= 34 else "train") for i in range(48)]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files), SETTINGS).tasks
    assert task.positions("test").tolist() == list(range(34, 48))
    assert any(note.startswith("Leak: 1 of 4 test groups also have frames in training (2 of 14") for note in task.notes)


def test_a_given_validation_split_is_kept(tmp_path: Path) -> None:
    splits = ["train", "train", "val", "test"]
    files = [File("ab"[i % 2], f"p{i // 2}", splits[i // 2 % 4]) for i in range(48)]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files), SETTINGS).tasks
    assert (task.splits == [{"val": "validation"}.get(f.split, f.split) for f in files]).all()
    assert not any("Leak" in note for note in task.notes)


def test_files_without_a_group_are_groups_of_their_own(tmp_path: Path) -> None:
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", [File("ab"[i % 2]) for i in range(40)]), SETTINGS).tasks
    assert len(set(task.groups.tolist())) == 40


def test_one_store_gives_a_task_per_labelled_dataset_and_one_can_be_picked(tmp_path: Path) -> None:
    files = (
        patients(8, ["a", "b"], dataset="lung") + patients(8, ["c", "d"], dataset="liver") + patients(2, ["e"], 1, "x")
    )
    write_labelled(tmp_path / "s.zarr", files)
    found = open_tasks([str(tmp_path / "s.zarr")], tmp_path, Recipe())
    assert [task.name for task in found.tasks] == ["liver", "lung"]
    assert found.left_out == ["x: not scored, it has fewer than two labels."]
    (picked,) = open_tasks([f"{tmp_path / 's.zarr'}::lung"], tmp_path, Recipe()).tasks
    assert picked.classes == ("a", "b")


def test_a_task_whose_test_holds_one_class_is_not_scored_and_said_why(tmp_path: Path) -> None:
    files = [File("ab"[i % 2], f"p{i}", "train") for i in range(10)] + [File("a", f"t{i}", "test") for i in range(4)]
    store = write_labelled(tmp_path / "s.zarr", files)
    with pytest.raises(UsageError, match="toy: not scored, 14 groups leave frames of one class only for test"):
        find_tasks(store, SETTINGS)
    lone = write_labelled(tmp_path / "lone.zarr", [File("ab"[i % 2], "one patient") for i in range(10)])
    with pytest.raises(UsageError, match="1 groups leave no frame for t"):
        find_tasks(lone, SETTINGS)


def test_wrong_tasks_are_refused_with_what_to_do(tmp_path: Path) -> None:
    write_labelled(tmp_path / "s.zarr", patients(4, ["only"]))
    with pytest.raises(UsageError, match="fewer than two labels"):
        open_tasks([str(tmp_path / "s.zarr")], tmp_path, Recipe())
    with pytest.raises(UsageError, match="no dataset 'nope'; it holds toy"):
        open_tasks([f"{tmp_path / 's.zarr'}::nope"], tmp_path, Recipe())
    with pytest.raises(UsageError, match="no such store, folder or manifest"):
        open_tasks([str(tmp_path / "missing")], tmp_path, Recipe())
