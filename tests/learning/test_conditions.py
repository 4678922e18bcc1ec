"""Claims about what `make results` compares: conditions differ in one setting, folds in their patients."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from benchmarks.learning.conditions import conditions
from benchmarks.learning.folds import deal, fold_manifests
from benchmarks.learning.scores import (
    BOTH,
    CONTRAST,
    OF_PIXELS,
    STUDENT,
    TEACHER,
)
from usjepa.cache.recipes.recipe import load_recipe, override_recipe
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.base import Entry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("recipe", ["demo", "small"])
def test_every_condition_is_the_recipe_but_for_what_its_row_names(recipe: str) -> None:
    for one in conditions(recipe):
        before = load_recipe(one.recipe)
        after = override_recipe(before, list(one.sets))
        changed = {
            name for name, value in after.train.model_dump().items() if value != before.train.model_dump()[name]
        } - {"teacher"}
        assert len(changed) <= 1, (one.name, changed)
        assert after.cache == before.cache
    names = [one.name for one in conditions()]
    assert len(set(names)) == len(names)
    assert names[0] == STUDENT


def test_the_pixel_only_encoder_gets_the_epochs_of_teacher_and_student() -> None:
    (only,) = [one for one in conditions() if one.name.startswith("pixels only")]
    both = load_recipe("demo").train.epochs + load_recipe("demo-teacher").train.epochs
    assert override_recipe(load_recipe(only.recipe), list(only.sets)).train.epochs == both


def test_students_of_two_first_stages_differ_in_their_targets_alone() -> None:
    found = {one.name: one for one in conditions("small", "contrast")}
    assert list(found) == [STUDENT, CONTRAST, BOTH, OF_PIXELS, TEACHER]
    plain = load_recipe("small").train
    for name, wanted in ((STUDENT, {"teacher"}), (OF_PIXELS, {"teacher"}), (BOTH, {"targets"})):
        made = override_recipe(load_recipe(found[name].recipe), list(found[name].sets)).train
        assert {key for key, value in made.model_dump().items() if value != plain.model_dump()[key]} == wanted
    learnt = {first.latents for first in found[BOTH].learns_from}
    both = override_recipe(load_recipe("small"), list(found[BOTH].sets)).train.targets
    assert set(both) == learnt


def entries_of(**groups: str) -> list[Entry]:
    """Group -> labels of its files, a letter each."""
    return [
        Entry(f"{group}/{n}.png", "d", group, label, "", "image")
        for group, labels in groups.items()
        for n, label in enumerate(labels)
    ]


def test_every_group_is_tested_on_in_one_fold_and_classes_are_spread_over_folds() -> None:
    entries = entries_of(**{f"a{n}": "AAB" for n in range(9)}, **{f"b{n}": "B" for n in range(6)})
    fold_of = deal(entries, 3)
    assert set(fold_of) == {("d", entry.group) for entry in entries}
    for letter, count in (("a", 3), ("b", 2)):
        dealt = [fold for (_, group), fold in fold_of.items() if group.startswith(letter)]
        assert [dealt.count(fold) for fold in range(3)] == [count] * 3


def test_folds_of_a_folder_test_each_patient_once_and_keep_a_patients_files_together(tmp_path: Path) -> None:
    lines = ["path,patient,label"]
    for patient in range(6):
        for frame in range(2):
            file = tmp_path / f"source/p{patient}/{frame}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(file), np.full((16, 16), 20 * patient + frame, np.uint8))
            lines.append(f"p{patient}/{frame}.png,p{patient},{'ab'[patient % 2]}")
    (tmp_path / "source/manifest.csv").write_text("\n".join(lines))
    manifests = fold_manifests(str(tmp_path / "source"), tmp_path / "folds", 3)
    again = fold_manifests(str(tmp_path / "source"), tmp_path / "folds", 3)  # a second call goes on
    assert manifests == again
    tested: Counter[str] = Counter()
    for manifest in manifests:
        listed = list_source(manifest, load_recipe("demo").cache).entries
        assert len(listed) == 12
        splits = {entry.group: {one.split for one in listed if one.group == entry.group} for entry in listed}
        assert all(len(found) == 1 for found in splits.values())
        tested.update(group for group, found in splits.items() if found == {"test"})
    assert set(tested.values()) == {1}
    assert len(tested) == 6
