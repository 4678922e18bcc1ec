"""Who is fitted on and who is scored: whole groups, no test split, the same files that an evaluation would leave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.runs import recipe
from usjepa.cache.errors import UsageError
from usjepa.train.probe.folds import FITTED, Folds, fold_files, thinned


@dataclass(frozen=True)
class File:
    label: str
    group: str
    split: str = ""
    dataset: str = "d"

    @property
    def path(self) -> str:
        return f"{self.group}-{self.label}-{self.split}.png"


RECIPE = recipe()


def folds(files: list[File], scanned: bool = True, *overrides: str) -> Folds:
    return fold_files(files, recipe(*overrides) if overrides else RECIPE, "SET", scanned)


def by_groups(count: int, *classes: str, split: str = "") -> list[File]:
    return [File(name, f"{split}{i}", split) for i in range(count) for name in classes]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 15), st.sampled_from(["", "train"])), max_size=60))
def test_no_group_is_ever_fitted_on_where_it_is_scored(drawn: list[tuple[str, int, str]]) -> None:
    files = [File(label, str(group), split) for label, group, split in drawn]
    try:
        found = folds(files)
    except UsageError:
        return
    for group in np.unique(found.groups):
        assert len(np.unique(found.fold[found.groups == group])) == 1
    assert set(found.fold.tolist()) <= set(range(5))


def test_files_of_the_test_split_and_all_of_its_groups_are_left_out() -> None:
    files = [*by_groups(8, "a", "b"), *by_groups(3, "a", "b", split="test"), File("a", "test0", "train")]
    found = folds(files)
    assert {files[i].group for i in found.files} == {str(i) for i in range(8)}
    assert "7 files of its test split are not looked at" in found.notes


def test_what_pandas_writes_for_a_missing_label_is_no_class() -> None:
    files = [*by_groups(8, "a", "b"), *by_groups(8, "nan", "NA")]
    assert {files[i].label for i in folds(files).files} == {"a", "b"}


def test_without_a_test_split_the_groups_are_left_out_that_an_evaluation_would_test_on() -> None:
    from usjepa.evaluate.tasks.splits import TEST, Frames, split_frames

    files = by_groups(24, "a", "b")
    found = folds(files)
    keys, groups = np.unique([f"d\0{file.group}" for file in files], return_inverse=True)
    labels = np.array([file.label == "b" for file in files]).astype(np.int64)
    frames = Frames(labels, groups, np.full(len(files), "", object), tuple(keys.tolist()), ("a", "b"))
    fraction = RECIPE.evaluate.test_fraction
    tested = np.flatnonzero(split_frames(frames, fraction, RECIPE.evaluate.validation_fraction).parts == TEST)
    assert 0 < len(tested) < len(files)
    assert sorted(found.files.tolist()) == sorted(set(range(len(files))) - set(tested.tolist()))


def test_groups_that_a_scan_would_set_aside_are_left_out_of_files_that_none_has_scanned() -> None:
    aside = "cache.test_fraction=0.4"
    unscanned, scanned = folds(by_groups(24, "a", "b"), False, aside), folds(by_groups(24, "a", "b"), True, aside)
    from usjepa.cache.scanning.splits import in_test

    files = by_groups(24, "a", "b")
    marked = in_test([(f.dataset, f.group, f.split) for f in files], 0.4)
    assert unscanned.files.tolist() == np.flatnonzero(~marked).tolist()
    assert scanned.files.tolist() != unscanned.files.tolist()


def test_a_validation_split_is_scored_and_its_groups_are_not_fitted_on() -> None:
    files = [*by_groups(6, "a", "b", split="train"), *by_groups(3, "a", "b", split="val"), File("a", "val1", "train"),
             *by_groups(2, "a", "b", split="test")]  # fmt: skip
    found = folds(files)
    assert found.how == "its validation split"
    assert {files[i].split for i in found.files[found.fold == 0]} == {"val"}
    assert {files[i].group for i in found.files[found.fold == FITTED]} == {f"train{i}" for i in range(6)}
    assert "1 files of validation groups outside of it are left out" in found.notes


def test_every_fold_holds_every_class_that_has_groups_enough() -> None:
    files = [File("rare" if i % 5 == 0 else "common", str(i), "train") for i in range(60)] + by_groups(
        2, "common", "rare", split="test"
    )
    found = folds(files)
    assert found.how == "5 folds of whole groups"
    for fold in range(5):
        assert set(found.labels[found.fold == fold].tolist()) == {0, 1}


def test_a_class_of_one_group_is_left_out_and_said() -> None:
    files = [*by_groups(8, "a", "b"), File("lonely", "x"), *by_groups(1, "a", split="test")]
    found = folds(files)
    assert "left out, of one group alone: lonely" in found.notes
    assert len(found.files) == 16


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "found: no label"),
        ([File("", "1")], "found: no label"),
        (by_groups(9, "a"), "two classes, each in two groups .* found: a"),
        ([File("a", "1"), File("b", "1"), File("b", "2")], "two classes, each in two groups"),
        (by_groups(9, "a", "b", split="test"), "18 files of its test split are not looked at"),
        ([File(f"{i / 7:.2f}", str(i)) for i in range(9)], "its labels are numbers"),
    ],
)
def test_what_can_not_be_probed_is_refused_with_what_is_needed(files: list[File], told: str) -> None:
    with pytest.raises(UsageError, match=f"train.probe=SET: .*{told}.*train.probe=null"):
        folds(files)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=200), st.integers(1, 60))
def test_frames_are_thinned_within_large_groups_before_a_small_one_is_cut(groups: list[int], most: int) -> None:
    groups_N = np.array(groups)
    taken = thinned(groups_N, most)
    assert len(taken) <= most
    assert (np.diff(taken) > 0).all()
    sizes, left = np.bincount(groups_N), np.bincount(groups_N[taken], minlength=groups_N.max() + 1)
    if most >= len(np.unique(groups_N)):
        largest = left.max()
        assert all(now in (size, largest) for size, now in zip(sizes, left, strict=True))
        assert len(taken) == min(most, len(groups)) or np.minimum(sizes, largest + 1).sum() > most
