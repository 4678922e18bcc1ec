"""No file and no patient of several stores lies on two sides of a split, and none counts twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.several import names, write_sources
from usjepa.cache import open_store, open_stores
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.copying.selection import Selection
from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.train import TrainSettings
from usjepa.cache.thinning.remove import remove
from usjepa.cache.thinning.withdrawal import Choice
from usjepa.train import StoreDataset
from usjepa.train.data.crossing import split_of
from usjepa.train.data.split import split_rows

if TYPE_CHECKING:
    from pathlib import Path

HALF = TrainSettings(validation_fraction=0.5)


def split(tmp_path: Path, letters: str = "ab") -> tuple[set[str], set[str], str]:
    """Return which `store/source` are trained on, which are held out, and what is said."""
    stores = open_stores([tmp_path / letter for letter in letters])
    found, notes = split_of(stores, HALF)
    of = [f"{letters[stores.part_of(row[None])[0]]}/{stores.origin_of(int(row)).source.path}" for row in stores.rows]
    return {of[i] for i in found.train}, {of[i] for i in found.validation}, "\n".join(notes)


def keyed(secret: str, patient: int) -> str:
    return f"patient:{secret}{patient:032x}"


def test_one_store_is_split_as_ever_and_nothing_is_said(tmp_path: Path) -> None:
    write_sources(tmp_path / "a", names("a", 8))
    store = open_store(tmp_path / "a")
    found, notes = split_of(store, HALF)
    expected = split_rows(store.table, HALF)
    assert not notes
    assert np.array_equal(found.train, expected.train)
    assert np.array_equal(found.validation, expected.validation)


def test_a_patient_of_two_stores_lies_on_one_side_whatever_the_datasets(tmp_path: Path) -> None:
    patients = [keyed("abcd", i) for i in range(12)]
    write_sources(tmp_path / "a", names("a", 12), groups=patients, dataset="clinic")
    write_sources(tmp_path / "b", names("b", 12), groups=patients, dataset="other")
    train, held, said = split(tmp_path)
    numbers = [{one[3:5] for one in side} for side in (train, held)]
    assert numbers[0] | numbers[1] == {f"{i:02d}" for i in range(12)}
    assert not numbers[0] & numbers[1]
    assert len(train) + len(held) == 24
    assert not said


def test_a_group_of_one_name_in_one_dataset_is_one_group_and_in_two_datasets_two(tmp_path: Path) -> None:
    groups = [f"case-{i}" for i in range(12)]
    for letter, dataset in (("a", "clinic"), ("b", "clinic"), ("c", "other")):
        write_sources(tmp_path / letter, names(letter, 12), groups=groups, dataset=dataset)
    train, held, _ = split(tmp_path, "ab")
    assert not {one[3:5] for one in train} & {one[3:5] for one in held}
    train, held, _ = split(tmp_path, "ac")
    assert {one[3:5] for one in train} & {one[3:5] for one in held}  # nothing says that they are the same


def test_a_file_that_two_stores_hold_counts_once_in_the_first(tmp_path: Path) -> None:
    contents = [f"image {i}" for i in range(12)]
    write_sources(tmp_path / "a", names("a", 12), contents)
    write_sources(tmp_path / "b", names("b", 12), [*contents[:6], *(f"new {i}" for i in range(6))])
    train, held, said = split(tmp_path)
    assert train | held == {*(f"a/{one}" for one in names("a", 12)), *(f"b/{one}" for one in names("b", 12)[6:])}
    assert "6 rows lie in two stores" in said
    assert "b00.png of b" in said
    train, held, _ = split(tmp_path, "ba")
    assert train | held == {*(f"b/{one}" for one in names("b", 12)), *(f"a/{one}" for one in names("a", 12)[6:])}


def test_rows_that_two_parts_of_a_store_hold_count_once(tmp_path: Path) -> None:
    write_sources(tmp_path / "s", names("s", 12), views=2)
    for letter, rows in (("a", (0, 15)), ("b", (9, 24))):
        copy_store(str(tmp_path / "s"), str(tmp_path / letter), Selection(rows=(rows,)))
    stores = open_stores([tmp_path / "a", tmp_path / "b"])
    found, (note,) = split_of(stores, HALF)
    positions = np.r_[found.train, found.validation]
    places = [tuple(column[positions].tolist()) for column in (stores.table.source, stores.table.view)]
    assert len(set(zip(*places, strict=True))) == len(positions) == 24
    assert found.excluded == 6
    assert "6 rows lie in two stores" in note


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_file_that_either_store_calls_test_is_trained_on_from_neither(tmp_path: Path, order: str) -> None:
    contents = [f"image {i}" for i in range(8)]
    write_sources(tmp_path / "a", names("a", 8), contents, splits=["test"] * 2 + [""] * 6)
    write_sources(tmp_path / "b", names("b", 8), [*contents[:2], *(f"new {i}" for i in range(6))])
    train, held, said = split(tmp_path, order)
    assert not {"a/a00.png", "a/a01.png", "b/b00.png", "b/b01.png"} & (train | held)
    assert len(train | held) == 12
    assert "b00.png of b, b01.png of b: left out, because another store has the same files in a split" in said


def test_a_file_that_was_withdrawn_from_one_store_is_left_out_of_the_other(tmp_path: Path) -> None:
    write_sources(tmp_path / "a", names("a", 6), [f"image {i}" for i in range(6)])
    write_sources(tmp_path / "b", names("b", 6), ["image 2", *(f"new {i}" for i in range(5))])
    remove(str(tmp_path / "a"), Choice(sources=("a02.png",)))
    train, held, said = split(tmp_path)
    assert "b/b00.png" not in train | held
    assert len(train | held) == 10
    assert "b00.png of b: left out, because the same files were withdrawn" in said


def test_a_patient_who_is_test_in_one_store_is_not_trained_on_through_another(tmp_path: Path) -> None:
    patients = [keyed("abcd", i) for i in range(6)]
    write_sources(tmp_path / "a", names("a", 6), groups=patients, splits=["test"] + [""] * 5)
    write_sources(tmp_path / "b", names("b", 6), groups=patients, dataset="other")
    for order in ("ab", "ba"):
        train, held, said = split(tmp_path, order)
        assert not {"a/a00.png", "b/b00.png"} & (train | held)
        assert len(train | held) == 10
        assert "b00.png of b: left out, because another store has the same patients in a split" in said


def test_a_group_that_is_test_in_one_store_and_trained_on_from_another_is_said(tmp_path: Path) -> None:
    groups = [f"case-{i}" for i in range(6)]
    write_sources(tmp_path / "a", names("a", 6), groups=groups, splits=["test"] + [""] * 5)
    write_sources(tmp_path / "b", names("b", 6), groups=groups)
    train, held, said = split(tmp_path)
    assert "b/b00.png" in train | held
    assert "b00.png of b: trained on or held out, and another store has a group of the same name" in said


def test_a_group_that_is_test_and_not_within_one_store_is_left_to_it(tmp_path: Path) -> None:
    groups = ["case-0"] * 2 + [f"case-{i}" for i in range(4)]
    write_sources(tmp_path / "a", names("a", 6), groups=groups, splits=["test"] + [""] * 5)
    write_sources(tmp_path / "b", names("b", 6), groups=groups)
    train, held, said = split(tmp_path)
    assert len(train | held) == 11
    assert not said


def test_groups_that_both_stores_call_test_are_not_worth_a_word(tmp_path: Path) -> None:
    groups = [f"case-{i}" for i in range(6)]
    for letter in "ab":
        write_sources(tmp_path / letter, names(letter, 6), groups=groups, splits=["test"] + [""] * 5)
    assert not split(tmp_path)[2]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (keyed("abcd", 1), keyed("abcd", 2), False),
        (keyed("abcd", 1), keyed("dcba", 1), True),
        ("patient:img/1.dcm", "patient:img/1.dcm", True),
        (keyed("abcd", 1), "patient:img/1.dcm", True),
        (keyed("abcd", 1), "case-1", False),
        ("case-1", "case-2", False),
    ],
)
def test_it_says_where_patients_of_two_stores_cant_be_recognised(
    tmp_path: Path, first: str, second: str, told: bool
) -> None:
    for letter, group in (("a", first), ("b", second)):
        write_sources(tmp_path / letter, names(letter, 3), groups=[group, "case-8", "case-9"])
    said = split(tmp_path)[2]
    assert ("not with one secret (USJEPA_PATH_KEY)" in said) == told


def test_it_says_where_one_store_hashes_its_names_and_another_does_not(tmp_path: Path) -> None:
    write_sources(tmp_path / "a", [f"{i:032x}" for i in range(3)])
    write_sources(tmp_path / "b", names("b", 3))
    assert "some of the stores were built with --hash-paths" in split(tmp_path)[2]


def test_stores_of_which_nothing_is_left_to_train_on_are_refused(tmp_path: Path) -> None:
    contents = [f"image {i}" for i in range(4)]
    write_sources(tmp_path / "a", names("a", 4), contents, splits=["test"] * 4)
    write_sources(tmp_path / "b", names("b", 4), contents)
    with pytest.raises(UsageError, match="no row is left to train on, because"):
        split(tmp_path)


def test_a_dataset_of_several_stores_has_the_parts_that_training_has(tmp_path: Path) -> None:
    contents = [f"image {i}" for i in range(12)]
    write_sources(tmp_path / "a", names("a", 12), contents)
    write_sources(tmp_path / "b", names("b", 12), contents[::-1])
    places = [tmp_path / "a", tmp_path / "b"]
    train, held = (StoreDataset(places, part, settings=HALF) for part in ("train", "validation"))
    assert len(train) + len(held) == 12
    assert len(StoreDataset(places, "all")) == 24
