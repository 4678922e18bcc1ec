"""Splits: every spelling of `test` is test, and a name that nobody knows is refused instead of trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.builds import pictures
from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.recipes.train import TrainSettings
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.splits import split_named, split_of_folder
from usjepa.evaluate.tasks.splits import Frames, split_frames
from usjepa.train.data.split import _split_groups

if TYPE_CHECKING:
    from pathlib import Path

TESTS = [
    "test",
    "TEST",
    "Testing",
    " tst",
    "test_set",
    "TestSet",
    "held-out",
    "hold out",
    "holdout",
    "eval",
    "test2019",
]


def splits(root: Path) -> dict[str, str]:
    return {entry.path: entry.split for entry in list_source(str(root), CacheSettings()).entries}


@pytest.mark.parametrize("name", TESTS)
def test_every_spelling_of_test_in_a_manifest_is_test(tmp_path: Path, name: str) -> None:
    pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "manifest.csv").write_text(f"path,split\na.png,{name}\nb.png,TRAIN\n")
    assert splits(tmp_path) == {"a.png": "test", "b.png": "train"}


@pytest.mark.parametrize("name", ["external", "3", "tset", "group A", "0.2", "train;test", "testtrain"])
def test_a_split_that_is_not_known_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "manifest.csv").write_text(f'path,split\na.png,train\nb.png,"{name}"\n')
    with pytest.raises(UsageError, match=r"manifest\.csv, line 3: the split '.*' is not known; write train, val, test"):
        splits(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [("valid", "val"), ("dev", "val"), ("Train+Val", "train_val"), ("trainval", "train_val"), ("NaN", ""), ("", "")],
)
def test_other_names_have_one_spelling_in_a_store(name: str, split: str) -> None:
    assert split_named(name) == split


@pytest.mark.parametrize(
    "folder", ["test_set", "holdout", "test-images", "imagesTs", "TestB", "test2", "X_test", "Testing"]
)
def test_a_folder_of_test_frames_is_test_however_it_is_called(tmp_path: Path, folder: str) -> None:
    pictures(tmp_path, [f"{folder}/cyst/a.png", "training_set/cyst/b.png"])
    assert splits(tmp_path) == {f"{folder}/cyst/a.png": "test", "training_set/cyst/b.png": "train"}
    assert {entry.label for entry in list_source(str(tmp_path), CacheSettings()).entries} == {"cyst"}


@pytest.mark.parametrize("folder", ["contest", "2CH", "latest", "ts", "protest", "validation_study", "biopsy"])
def test_other_folders_are_no_split(folder: str) -> None:
    assert split_of_folder(folder) == ""


def test_a_folder_that_may_be_a_test_split_stops_the_scan_until_a_manifest_decides(tmp_path: Path) -> None:
    pictures(tmp_path, ["stress_test/a.png"])
    with pytest.raises(UsageError, match=r"stress_test/a\.png: the folder 'stress_test' may be a test split"):
        splits(tmp_path)
    (tmp_path / "manifest.csv").write_text("path,split\nstress_test/a.png,train\n")
    assert splits(tmp_path) == {"stress_test/a.png": "train"}


@pytest.mark.parametrize("column", ["subset", "Set", "partition", "phase", "usage"])
def test_splits_are_found_under_any_name_of_their_column(tmp_path: Path, column: str) -> None:
    pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "manifest.csv").write_text(f"path,{column}\na.png,Training\nb.png,Test\n")
    assert splits(tmp_path) == {"a.png": "train", "b.png": "test"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,is_test\na.png,0\nb.png,1\n", "column `is_test` looks like a split"),
        ("path,fold\na.png,0\nb.png,1\n", "column `fold` looks like a split"),
        ("path,set,phase\na.png,train,test\nb.png,test,train\n", "columns `set`, `phase` may be splits"),
    ],
)
def test_columns_that_look_like_splits_and_are_not_understood_stop_the_scan(
    tmp_path: Path, text: str, reason: str
) -> None:
    pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(UsageError, match=reason):
        splits(tmp_path)


def test_a_store_of_an_earlier_version_is_read_by_the_same_names() -> None:
    given = np.array(["testing", "train", "validation", "Test"], dtype=object)
    names = np.array(list("abcd"), dtype=object)
    split = _split_groups(names, names, given, TrainSettings(validation_fraction=0.0))
    assert split.train.tolist() == [1, 2]
    zeros = np.arange(4)
    parts = split_frames(Frames(zeros % 2, zeros, given, tuple("abcd"), ("x", "y")), 0.0, 0.0).parts
    assert parts.tolist() == ["test", "train", "validation", "test"]
