"""Claims about `make results`: each condition differs in one setting, and the table says what the runs' scores say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.learning.budget import RECIPES, Speed, speed_of
from benchmarks.learning.conditions import conditions, first_of
from benchmarks.learning.folds import deal, fold_manifests
from benchmarks.learning.pooled import lines_of, pooled_differences, predictions_of
from benchmarks.learning.scores import (
    BOTH,
    CONTRAST,
    GRID,
    MEAN,
    OF_PIXELS,
    STUDENT,
    TEACHER,
    Scored,
    differences,
    int8_told,
    read_rows,
    scores_of,
    table,
    verdicts,
)
from benchmarks.learning.work import Work
from tests.support.documents import document
from usjepa.cache.recipes.recipe import load_recipe, override_recipe
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.base import Entry


def rows_of(**scores: list[float]) -> dict[str, list[dict[str, dict[str, float]]]]:
    """Condition -> a score of the probe, and one of k-NN a point lower, for every training seed."""
    names = {name.replace("_", " "): values for name, values in scores.items()}
    return {name: [{"phantom": {"probe": v, "knn": v - 1}} for v in values] for name, values in names.items()}


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
        scored.append(Scored(STUDENT + MEAN, fold, folder, "random"))
    less = Scored("pixels only", 0, scored[0].report, "hog")  # of one fold alone
    found = pooled_differences([*scored, less], STUDENT)
    assert [(one["row"], one["other"]) for one in found] == [
        (STUDENT, "random weights"), (STUDENT, "HOG"), (STUDENT + MEAN, "random weights"), (STUDENT + MEAN, "HOG"),
    ]  # fmt: skip
    assert [one["patients"] for one in found] == [16] * 4
    assert [one["real"] for one in found] == [True, False, False, True]
    assert found[0]["difference"] == pytest.approx(66.67, abs=0.01)
    assert found[0]["interval"][0] > 0
    assert found[2]["difference"] == 0
    assert lines_of(found)[2].endswith("| real |")


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


def test_rows_of_further_poolings_stand_last_and_seeds_in_order(tmp_path: Path) -> None:
    folders = [report(tmp_path / f"f{n}-a", "ab", "01", {"student": ["ab"]}) for n in range(2)]
    rows = [GRID, MEAN, "", ""]
    found = read_rows([Scored(STUDENT + row, n % 2, folders[n % 2], "student") for n, row in enumerate(rows)])
    assert list(found) == [STUDENT, STUDENT + MEAN, STUDENT + GRID]
    assert len(found[STUDENT]) == 2


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


@pytest.mark.parametrize(
    ("seconds", "epochs"), [(100, 9), (109, 9), (110, 10), (5, 1), (1e9, 400)], ids=["100", "109", "110", "few", "many"]
)
def test_a_training_gets_the_epochs_that_fit_and_at_least_one(seconds: float, epochs: int) -> None:
    assert Speed(images=100, images_per_s=10.0, starting_s=10.0).epochs_in(seconds) == epochs


def test_speed_is_that_of_the_later_steps_and_all_else_is_starting(tmp_path: Path) -> None:
    steps = [{"kind": "step", "images": 50, "images_per_s": 10 if n < 2 else 100} for n in range(4)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in [*steps, {"kind": "validation"}]))
    assert speed_of(log, wall_s=12.0) == Speed(200, 100, 10.0)


def test_the_recipes_of_a_gpu_are_vit_small_at_224_in_half_and_the_tiny_ones_differ_in_size_alone() -> None:
    large, small = load_recipe("gpu", file=RECIPES), load_recipe("tiny", file=RECIPES)
    assert (large.cache.image_size, large.train.compute) == (224, "bf16")
    assert large.train.student.architecture == "vit_small_patch16_224"
    assert first_of("gpu", "contrast", RECIPES).recipe == "gpu-contrast"
    alike = {"loss", "target_norm", "objective", "lr", "weight_decay"}
    assert large.train.model_dump(include=alike) == small.train.model_dump(include=alike)


@pytest.mark.slow
def test_all_of_it_runs_on_a_processor_within_its_minutes(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.learning.budget", "--minutes", "2", "--recipe", "tiny", "--work", tmp_path],
        env={**os.environ, "USJEPA_RESULTS": str(tmp_path / "results")}, text=True, capture_output=True, timeout=900,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "of 2 minutes" in made.stdout, made.stderr[-2000:]
    found = json.loads((tmp_path / "results/learning-gpu-tiny.json").read_text())
    assert [one["step"] for one in found["steps"]] == [
        "pixels and regions", "train: contrastive teacher, seed 0", "latents", "train: student, seed 0",
        "train: student, seed 1", "reports",
    ]  # fmt: skip
    assert len(found["macro_f1"][STUDENT]) == 2
    assert {one["other"] for one in found["tests"] if one["row"] == STUDENT} >= {"random weights", "32x32 pixels"}
