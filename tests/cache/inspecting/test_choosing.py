"""A page's rows: doubtful, blank, duplicates and outliers first, the rest drawn evenly; said of how many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.cache.inspecting.looked import DIM, TOKENS, clinic, speckle, write_looked
from tests.support.labelled import File
from usjepa.cache.inspecting.choosing import LOOKED_AT, choose

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.inspecting.choosing import Row


def by_number(rows: list[Row]) -> dict[int, Row]:
    return {row.number: row for row in rows}


def test_rows_that_need_a_look_are_chosen_from_far_more_than_are_shown(tmp_path: Path) -> None:
    pixels = speckle(120)
    pixels[70] = 9  # blank, though no record says so
    pixels[111] = pixels[30]
    latents = np.random.default_rng(0).normal(size=(120, TOKENS, DIM)).astype("f4")
    latents[94] += 9
    latents[94, :, ::2] -= 18
    store = write_looked(
        tmp_path / "s", clinic(120), pixels=pixels, latents={"toy": latents},
        doubtful={17: "taken whole for the scan"}, blank={50: "one colour"},
    )  # fmt: skip
    chosen = choose(store, 24, "toy")
    rows = by_number(chosen.rows)
    assert len(rows) == len(chosen.rows) == 24
    assert {17, 50, 70, 30, 111, 94} <= set(rows)
    assert rows[17].doubtful == "taken whole for the scan"
    assert (rows[50].blank, rows[70].blank) == ("one colour", "one colour")
    assert (rows[30].twin, rows[30].twin_bits, rows[30].twin_of_other_patient) == (111, 0, True)
    assert rows[94].is_outlier
    assert rows[94].outlier > 2
    assert [row.number for row in chosen.rows[:2]] == [17, 50]
    assert (chosen.there, chosen.examined) == (120, 120)
    assert (chosen.doubtful, chosen.blank, chosen.duplicates, chosen.outliers) == (1, 2, 2, 1)


def test_no_more_is_looked_at_than_five_rows_for_each_shown_and_those_that_are_known(tmp_path: Path) -> None:
    store = write_looked(tmp_path / "s", clinic(200), doubtful={199: "x", 3: "x"}, views=2)
    chosen = choose(store, 10, "toy")
    assert len(chosen.rows) == 10
    assert 10 * LOOKED_AT <= chosen.examined <= 10 * LOOKED_AT + 6
    assert {3, 199} <= set(by_number(chosen.rows))
    assert chosen.there == 400


def test_one_kind_takes_a_fifth_of_the_page_at_most_while_there_are_other_rows(tmp_path: Path) -> None:
    store = write_looked(tmp_path / "s", clinic(60), doubtful=dict.fromkeys(range(40), "marks"))
    chosen = choose(store, 20, None)
    doubtful = [row for row in chosen.rows if row.doubtful]
    assert chosen.doubtful == 40
    assert len({row.source.path for row in doubtful}) == len(doubtful)
    assert sum(not row.doubtful for row in chosen.rows) >= 3
    every = choose(store, 100, None)
    assert len(every.rows) == 60
    assert sum(bool(row.doubtful) for row in every.rows) == 40


def test_equal_files_are_looked_at_wherever_they_are(tmp_path: Path) -> None:
    files, pixels = [File("none", f"p{i}", content="e" * 32 if i in (7, 160) else "") for i in range(200)], speckle(200)
    pixels[160] = pixels[7]
    store = write_looked(tmp_path / "s", files, pixels=pixels)
    rows = by_number(choose(store, 5, None).rows)
    assert rows[7].twin == 160
    assert rows[160].twin == 7


def test_rows_of_another_dataset_neither_count_nor_are_compared(tmp_path: Path) -> None:
    pixels = speckle(24)
    pixels[2] = pixels[0]  # the datasets take turns by patient, of two files each
    store = write_looked(tmp_path / "s", clinic(24), pixels=pixels, doubtful={2: "x", 4: "y"})
    chosen = choose(store, 50, "toy", "breast")
    assert {row.source.dataset for row in chosen.rows} == {"breast"}
    assert (chosen.there, chosen.doubtful, chosen.duplicates) == (12, 1, 0)


def test_holes_are_not_rows_and_views_of_one_frame_are_no_duplicates(tmp_path: Path) -> None:
    pixels = speckle(12).repeat(3, axis=0)
    store = write_looked(tmp_path / "s", clinic(12), views=3, pixels=pixels, holes=(4, 5), doubtful={4: "x", 7: "y"})
    chosen = choose(store, 100, "toy")
    assert (chosen.there, len(chosen.rows), chosen.duplicates, chosen.doubtful) == (34, 34, 0, 1)
    assert by_number(chosen.rows)[7].view == 1


def test_without_latents_nothing_is_an_outlier(tmp_path: Path) -> None:
    chosen = choose(write_looked(tmp_path / "s", clinic(30), layers=("pixels", "regions")), 30, None)
    assert chosen.moments is None
    assert not any(row.is_outlier for row in chosen.rows)
    assert all(np.isnan(row.outlier) for row in chosen.rows)
