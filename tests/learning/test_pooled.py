"""Claims about differences over all patients of all folds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.learning.pooled import lines_of, pooled_differences, predictions_of
from benchmarks.learning.scores import (
    GRID,
    MEAN,
    STUDENT,
    Scored,
    read_rows,
)
from tests.support.documents import document

if TYPE_CHECKING:
    from pathlib import Path


def report(folder: Path, truth: str, groups: str, predicted: dict[str, list[str]], classes: str = "ab") -> Path:
    """Write a report; `truth` and predictions are a letter a frame, `groups` a digit; the test frames are named by all
    three of truth, groups and the folder's name up to its last dash."""
    folder.mkdir()
    made = document("t", tuple(classes))

    def numbers(text: str) -> str:
        return " ".join(str(classes.index(letter)) for letter in text)

    digest = f"{folder.name.rsplit('-', 1)[0]} {truth} {groups}"
    made["tasks"][0]["test"] = {"labels": numbers(truth), "groups": " ".join(groups), "digest": digest}
    made["scores"] = [one for one in made["scores"] if one["encoder"] in predicted]
    made["differences"] = []
    for one in made["scores"]:
        lines = list(map(numbers, predicted[one["encoder"]]))
        one["probes"] = dict.fromkeys(one["probes"], one["probes"]["probe"] | {"predicted": lines})
    (folder / "scores.json").write_text(json.dumps(made))
    return folder


def test_predictions_of_folds_stand_side_by_side_and_their_patients_apart(tmp_path: Path) -> None:
    first = report(tmp_path / "fold0-a", "aabb", "0011", {"student": ["aabb"]})
    second = report(tmp_path / "fold1-a", "bbaa", "0011", {"student": ["baaa"]}, "ba")  # classes in another order
    found = predictions_of([Scored(STUDENT, n, one, "student") for n, one in enumerate((first, second))], "t", "probe")
    assert "".join("ab"[n] for n in found.truth_N) == "aabbbbaa"
    assert "".join("ab"[n] for n in found.predicted_SN[0]) == "aabbbaaa"
    assert len(set(found.groups_N)) == 4
    assert found.macro_f1 == pytest.approx((8 / 9 + 6 / 7) / 2)


def test_seeds_that_were_tested_on_the_same_frames_are_further_predictors_of_them(tmp_path: Path) -> None:
    both = [
        report(tmp_path / f"phantom-{n}", "aabb", "0011", {"student": [made] * 2})
        for n, made in enumerate(("aabb", "aaaa"))
    ]
    found = predictions_of([Scored(STUDENT, n, one, "student") for n, one in enumerate(both)], "t", "probe")
    assert found.predicted_SN.shape == (4, 4)
    assert found.macro_f1 == pytest.approx((1 + 1 / 3) / 2)


def test_a_difference_over_all_patients_is_paired_and_real_only_where_patients_agree(tmp_path: Path) -> None:
    truth, groups = "ab" * 8, "".join(str(n // 2) for n in range(16))
    scored = []
    for fold in range(2):
        folder = report(
            tmp_path / f"fold{fold}-a", truth, groups,
            {"student": [truth], "random": ["a" * 16], "hog": [truth[:-1] + "a"]},
        )  # fmt: skip
        scored += [
            Scored(row, fold, folder, encoder)
            for row, encoder in ((STUDENT, "student"), ("random weights", "random"), ("HOG", "hog"))
        ]
        scored += [Scored(row + MEAN, fold, folder, "random") for row in (STUDENT, "random weights")]
    less = Scored("pixels only", 0, scored[0].report, "hog")  # of one fold alone
    found = pooled_differences([*scored, less], STUDENT)
    assert [(one["row"], one["other"]) for one in found] == [
        (STUDENT, "random weights"), (STUDENT, "HOG"), (STUDENT + MEAN, "random weights" + MEAN),
        (STUDENT + MEAN, "HOG"),
    ]  # fmt: skip
    assert [one["patients"] for one in found] == [16] * 4
    assert [one["real"] for one in found] == [True, False, False, True]
    assert found[0]["difference"] == pytest.approx(66.67, abs=0.01)
    assert found[0]["interval"][0] > 0
    assert found[2]["difference"] == 0
    assert lines_of(found)[2].endswith("| real |")


def test_rows_of_further_poolings_stand_last_and_seeds_in_order(tmp_path: Path) -> None:
    folders = [report(tmp_path / f"f{n}-a", "ab", "01", {"student": ["ab"]}) for n in range(2)]
    rows = [GRID, MEAN, "", ""]
    found = read_rows([Scored(STUDENT + row, n % 2, folders[n % 2], "student") for n, row in enumerate(rows)])
    assert list(found) == [STUDENT, STUDENT + MEAN, STUDENT + GRID]
    assert len(found[STUDENT]) == 2


def test_a_row_is_compared_with_its_own_pooling_and_only_what_has_no_tokens_with_each(tmp_path: Path) -> None:
    folder = report(tmp_path / "f0-a", "abab", "0123", {"student": ["abab"], "random": ["aaaa"], "hog": ["abaa"]})
    rows = {STUDENT: "student", STUDENT + MEAN: "student", "4 views": "random", "HOG": "hog"}
    found = pooled_differences([Scored(row, 0, folder, encoder) for row, encoder in rows.items()], STUDENT)
    assert [(one["row"], one["other"]) for one in found] == [
        (STUDENT, "4 views"), (STUDENT, "HOG"), (STUDENT + MEAN, "HOG"),
    ]  # fmt: skip
