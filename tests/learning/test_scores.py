"""Claims about the tables of `make results`: they say what the runs' scores say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.learning.scores import (
    MEAN,
    STUDENT,
    TEACHER,
    differences,
    int8_told,
    scores_of,
    table,
    verdicts,
)
from benchmarks.learning.work import Work

if TYPE_CHECKING:
    from pathlib import Path


def rows_of(**scores: list[float]) -> dict[str, list[dict[str, dict[str, float]]]]:
    """Condition -> a score of the probe, and one of k-NN a point lower, for every training seed."""
    names = {name.replace("_", " "): values for name, values in scores.items()}
    return {name: [{"phantom": {"probe": v, "knn": v - 1}} for v in values] for name, values in names.items()}


def test_means_and_deviations_over_training_seeds_stand_in_the_table() -> None:
    lines = table(rows_of(student=[50.0, 52.0, 54.0], random_weights=[41.25]))
    assert lines[2] == "| student | 3 | 52.0 ± 2.0; 51.0 ± 2.0 |"
    assert lines[3] == "| random weights | 1 | 41.2; 40.2 |"


@pytest.mark.parametrize(
    ("random", "pixels", "expected"),
    [(41.0, 50.0, ["met", "met"]), (41.5, 51.0, ["NOT met", "NOT met"]), (40.0, 51.5, ["met", "NOT met"])],
)
def test_goals_are_judged_by_means_and_to_be_equal_to_pixels_is_not_to_beat_them(
    random: float, pixels: float, expected: list[str]
) -> None:
    rows = rows_of(student=[50.0, 52.0, 51.0], random_weights=[random])
    rows["32x32 pixels"] = rows_of(pixels=[pixels])["pixels"]
    told = verdicts(rows, "phantom")
    assert [line.split(": ")[-1] for line in told] == expected
    assert told[0].startswith(f"student over random weights: +{51 - random:.1f} points; goal 10")


def test_each_pooling_has_goals_of_its_own_and_pixels_are_the_same_in_both() -> None:
    rows = rows_of(student=[50.0], random_weights=[41.0]) | {"32x32 pixels": rows_of(pixels=[45.0])["pixels"]}
    rows |= {f"student{MEAN}": rows_of(s=[44.0])["s"], f"random weights{MEAN}": rows_of(r=[33.0])["r"]}
    assert verdicts(rows, "phantom") == [
        "student over random weights: +9.0 points; goal 10: NOT met",
        "student over 32x32 pixels: +5.0 points; goal 0: met",
        "student, mean pooling over random weights, mean pooling: +11.0 points; goal 10: met",
        "student, mean pooling over 32x32 pixels: -1.0 points; goal 0: NOT met",
    ]


def test_differences_are_taken_seed_by_seed_and_the_teachers_from_the_first() -> None:
    rows = rows_of(student=[50.0, 52.0], four=[53.0, 51.0]) | {TEACHER: rows_of(t=[49.0])["t"]}
    found = differences(rows, [STUDENT, "four", TEACHER])
    assert found["four"]["phantom"] == [3.0, -1.0]
    assert found[TEACHER]["phantom"] == [-1.0]
    assert found[STUDENT]["phantom"] == [0.0, 0.0]


def test_differences_of_mean_pooling_are_taken_from_the_student_pooled_so() -> None:
    rows = rows_of(student=[50.0, 52.0], four=[51.0, 50.0])
    rows |= {name + MEAN: scores for name, scores in rows_of(student=[40.0, 42.0], four=[45.0, 43.0]).items()}
    found = differences(rows, ["four"])
    assert found == {"four": {"phantom": [1.0, -2.0]}, "four" + MEAN: {"phantom": [5.0, 1.0]}}


def test_int8_is_within_the_spread_of_fp16_or_it_is_said_that_it_is_not() -> None:
    near = rows_of(student=[50.0, 52.0, 54.0], int8_targets=[51.0, 51.0, 51.0])
    far = rows_of(student=[50.0, 52.0, 54.0], int8_targets=[49.0, 49.0, 49.0])
    assert int8_told(near) == ["phantom: int8 minus fp16: -1.0 points, within fp16's deviation of 2.0"]
    assert int8_told(far) == ["phantom: int8 minus fp16: -3.0 points, NOT within fp16's deviation of 2.0"]
    assert int8_told(rows_of(student=[50.0], int8_targets=[51.0])) == []


def test_scores_of_a_report_are_read_in_percent() -> None:
    f1 = {"probe": {"mean": 0.5, "sd": 0.01, "interval": [0.4, 0.6]}, "knn": {"mean": 0.25}, "logistic": {"mean": 0.75}}
    probes = {name: {"measures": {"macro_f1": measure}} for name, measure in f1.items()}
    one = {"encoder": "student", "task": "t", "probes": probes}
    found = scores_of({"scores": [one, {**one, "encoder": "random"}]}, "student")
    assert found == {
        "t": {"probe": 50.0, "probe_sd": 1.0, "probe_interval": [40.0, 60.0], "logistic": 75.0, "knn": 25.0}
    }


def test_a_command_that_fails_ends_it_all_with_the_place_of_its_log_and_its_time_is_kept(tmp_path: Path) -> None:
    work = Work(tmp_path / "w", None)
    with pytest.raises(SystemExit, match=r"usjepa-cache status .* ended with \d+: see .*log\.txt"):
        work.call("status", "usjepa-cache", "status", str(tmp_path / "none.zarr"))
    assert "none.zarr" in (tmp_path / "w/log.txt").read_text()
    (line,) = (tmp_path / "w/times.jsonl").read_text().splitlines()
    assert json.loads(line)["part"] == "status"
    assert work.times()["status"]["commands"] == 1
