"""Rows are drawn in turn over strata and patients, evenly spaced within a source, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.cache.inspecting.looked import clinic, write_looked
from tests.support.labelled import File
from usjepa.cache.errors import UsageError
from usjepa.cache.inspecting.sampling import Sources, first_rows, named, rows_in_turn

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.reading.store import Store


def drawn(store: Store, count: int, dataset: str | None = None) -> list[int]:
    positions = rows_in_turn(store.table, Sources.of(store, dataset), count)
    return [int(row) for row in store.row_numbers(positions)]


def test_a_rare_label_and_split_come_as_early_as_common_ones(tmp_path: Path) -> None:
    files = [File("none", f"a{i}", "train") for i in range(40)]
    files += [File("cyst", "b", "train"), File("none", "c", "test"), File("none", "d", "train", "other")]
    store = write_looked(tmp_path / "s", files)
    first = drawn(store, 4)
    assert {row for row in first if row >= 40} == {40, 41, 42}
    assert Sources.of(store).strata == 4
    assert len(set(drawn(store, 43))) == 43


def test_within_a_label_every_patient_has_a_turn_before_one_has_two(tmp_path: Path) -> None:
    files = [File("none", "many") for _ in range(20)] + [File("none", f"one-{i}") for i in range(5)]
    store = write_looked(tmp_path / "s", files)
    first = drawn(store, 6)
    assert {row for row in first if row >= 20} == {20, 21, 22, 23, 24}
    assert len({store.origin_of(row).source.group for row in first}) == 6


def test_a_source_without_a_group_is_a_patient_of_its_own(tmp_path: Path) -> None:
    patients = Sources.of(write_looked(tmp_path / "s", [File("none"), File("none"), File("none", "x")])).patient_S
    assert len(np.unique(patients)) == 3


def test_groups_of_one_name_in_two_datasets_are_two_patients(tmp_path: Path) -> None:
    files = [File("none", "p1", dataset="a"), File("none", "p1", dataset="b"), File("none", "p1", dataset="b")]
    patients = Sources.of(write_looked(tmp_path / "s", files)).patient_S
    assert patients[0] != patients[1] == patients[2]


def test_rows_of_a_source_are_evenly_spaced_and_holes_are_never_drawn(tmp_path: Path) -> None:
    store = write_looked(tmp_path / "s", clinic(4), views=5, holes=(1, 19))
    assert sorted(drawn(store, 1000)) == store.rows.tolist()
    assert 19 not in store.rows.tolist()
    two_each = sorted(drawn(store, 8))
    assert two_each == [0, 4, 5, 9, 10, 14, 15, 18]


def test_one_dataset_alone_is_drawn_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    store = write_looked(tmp_path / "s", clinic(8))
    assert {store.origin_of(row).source.dataset for row in drawn(store, 99, "liver")} == {"liver"}
    with pytest.raises(UsageError, match=r"no rows of dataset 'lung'; its datasets are: breast, liver"):
        drawn(store, 9, "lung")


def test_files_of_the_same_content_stand_together(tmp_path: Path) -> None:
    files = [File("none", f"p{i}", content="c" * 32 if i in (1, 5) else "") for i in range(7)]
    store = write_looked(tmp_path / "s", files)
    same = Sources.of(store).same_content()
    assert same.tolist() == [1, 5]
    assert first_rows(store.table, same).tolist() == [1, 5]


def test_names_come_from_the_parts_of_a_table_that_hold_them(tmp_path: Path) -> None:
    store = write_looked(tmp_path / "s", clinic(6), paths=[f"p{i}" for i in range(6)])
    assert {number: one.path for number, one in named(store.table, [5, 0, 5]).items()} == {0: "p0", 5: "p5"}


def test_the_same_store_gives_the_same_rows(tmp_path: Path) -> None:
    one, other = write_looked(tmp_path / "a", clinic(30)), write_looked(tmp_path / "b", clinic(30))
    assert drawn(one, 11) == drawn(other, 11)
