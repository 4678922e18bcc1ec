"""Claims about `usjepa-evaluate compare`: real differences are named, luck is not, what can't be compared is said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.support.documents import add_regression, add_segmentation, document
from usjepa.evaluate.cli import main
from usjepa.evaluate.comparing.comparison import MEASURES
from usjepa.evaluate.scores.metrics import packed
from usjepa.evaluate.scores.regression import packed_floats, regression_measures

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = np.repeat(np.arange(40), 5)
TRUTH = np.random.default_rng(0).integers(0, 2, 200)


def write(path: Path, right: float, seed: int = 1, weights: str = "", **changed: Any) -> Path:
    """Write a scores.json whose student is right about a share of the frames."""
    rng = np.random.default_rng(seed)
    predicted = [packed(np.where(rng.random(200) < right, TRUTH, 1 - TRUTH)) for _ in range(3)]
    made = document("lung", ("cyst", "none"))
    test = {"labels": packed(TRUTH), "groups": packed(GROUPS), "digest": "0"}
    made["tasks"][0] |= {"test": test, "identity": {"store": "0", "frames": "0"}, **changed}
    name = made["tasks"][0]["name"]
    made["scores"] = [{**made["scores"][0], "task": name}]
    for probe in made["scores"][0]["probes"].values():
        probe["predicted"] = predicted[:1]
    made["scores"][0]["probes"]["probe"]["predicted"] = predicted
    student = {**made["encoders"]["student"], "identities": {name: {"weights": weights or path.name}}}
    made |= {"encoders": {"student": student}, "settings": {"seeds": 3, "lr": 1e-3}}
    path.write_text(json.dumps(made))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)], catch_exceptions=False)


def test_a_large_difference_is_called_real_and_its_direction_named(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.json", 0.65), write(tmp_path / "b.json", 0.9, seed=2)
    assert "real: second is better" in call(a, b).stdout
    assert "real: first is better" in call(b, a).stdout
    out = tmp_path / "out.json"
    assert call(a, b, "--classifier", "knn", "--measure", "balanced_accuracy", "--json", out).exit_code == 0
    (told,) = json.loads(out.read_text())["differences"]
    assert told["real"]
    assert told["interval"][0] < told["difference"] < told["interval"][1]
    assert told["difference"] == told["second"] - told["first"]


def test_two_encoders_of_one_report_are_compared(tmp_path: Path) -> None:
    both = json.loads(write(tmp_path / "a.json", 0.65).read_text())
    better = json.loads(write(tmp_path / "b.json", 0.9, seed=2).read_text())
    both["encoders"]["teacher"] = better["encoders"]["student"]
    both["scores"].append({**better["scores"][0], "encoder": "teacher"})
    a = tmp_path / "both.json"
    a.write_text(json.dumps(both))
    told = call(a, a, "--encoders", "student", "teacher").stdout
    assert "student | teacher" in told
    assert "real: second is better" in told
    result = call(a, a, "--encoders", "student", "nobody")
    assert result.exit_code == 2
    assert "no encoder 'nobody'; it has student, teacher" in result.stderr


def test_luck_is_not_called_real(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.json", 0.75), write(tmp_path / "b.json", 0.75, seed=3)
    assert "not shown to differ" in call(a, b).stdout


def test_one_report_against_itself_has_nothing_to_compare(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", 0.75)
    result = call(a, a)
    assert result.exit_code == 0
    assert "Nothing to compare" in result.stdout
    assert "the same in both" in result.stdout


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        pytest.param({"name": "breast"}, "no task of that name", id="another task"),
        pytest.param({"classes": ["a", "b"]}, "classes differ", id="other classes"),
        pytest.param(
            {"test": {"labels": packed(TRUTH), "groups": packed(GROUPS), "digest": "1"}}, "test frames", id="frames"
        ),
        pytest.param(
            {"test": {"labels": packed(1 - TRUTH), "groups": packed(GROUPS), "digest": "0"}}, "test frames", id="labels"
        ),
    ],
)
def test_tasks_that_are_not_the_same_are_left_out_with_the_reason(
    tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    a, b = write(tmp_path / "a.json", 0.7), write(tmp_path / "b.json", 0.9, **changed)
    assert why in call(a, b).stdout


def test_few_patients_other_stores_and_other_protocols_are_told(tmp_path: Path) -> None:
    few: dict[str, Any] = {"test": {"labels": packed(TRUTH), "groups": packed(GROUPS // 10), "digest": "0"}}
    a = write(tmp_path / "a.json", 0.7, **few)
    b = write(tmp_path / "b.json", 0.9, identity={"store": "1", "frames": "0"}, **few)
    other = json.loads(b.read_text())
    other["settings"]["lr"] = 1.0
    b.write_text(json.dumps(other))
    told = call(a, b).stdout
    assert "not shown to differ" in told
    for note in ("4 test groups are too few to call any difference real", "two stores", "lr 0.001 | 1.0"):
        assert note in told


def test_reports_that_pool_tokens_differently_are_told_and_none_stands_for_the_mean(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.json", 0.7), write(tmp_path / "b.json", 0.9)
    for pooling, told in (("mean", False), ("tokens", True)):
        other = json.loads(b.read_text())
        other["settings"]["pooling"] = pooling
        b.write_text(json.dumps(other))
        assert ("pooling None | tokens" in call(a, b).stdout) == told
        assert ("The protocols differ" in call(a, b).stdout) == told


def test_what_is_no_report_is_refused_and_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", 0.7)
    whole = json.loads(a.read_text())
    (tmp_path / "old.json").write_text('{"format": 1}')
    (tmp_path / "newer.json").write_text(json.dumps({**whole, "format": 7}))
    (tmp_path / "no.json").write_text("[]")
    (tmp_path / "more.json").write_text(json.dumps({**whole, "mood": "good"}))
    stranger = json.loads(a.read_text())
    stranger["scores"][0]["encoder"] = "nobody"
    (tmp_path / "stranger.json").write_text(json.dumps(stranger))
    short = json.loads(a.read_text())
    short["scores"][0]["probes"]["knn"]["predicted"] = ["0 1"]
    (tmp_path / "short.json").write_text(json.dumps(short))
    short["scores"][0]["probes"]["knn"]["predicted"] = ["0 one"]
    (tmp_path / "word.json").write_text(json.dumps(short))
    whole["tasks"][0]["floor"]["macro_f1"] = "0.5"
    (tmp_path / "text.json").write_text(json.dumps(whole))
    del whole["tasks"]
    (tmp_path / "less.json").write_text(json.dumps(whole))
    for name, told in (
        ("old.json", "format 1, this version reads 4, 5 and 6"),
        ("newer.json", "format 7, this version reads 4, 5 and 6"),
        ("no.json", "not a report's scores.json"),
        ("gone.json", "no such file"),
        ("more.json", "mood: Extra inputs are not permitted"),
        ("text.json", "tasks.0.floor.macro_f1: Input should be a valid number"),
        ("less.json", "tasks: Field required"),
        ("stranger.json", "scores of nobody on lung, but not both of them"),
        ("short.json", "knn of student on lung does not predict its test frames"),
        ("word.json", "predicted.0: String should match pattern"),
    ):
        result = call(a, tmp_path / name)
        assert result.exit_code == 2
        assert told in result.stderr
        assert name in result.stderr
        assert "Traceback" not in result.output


def test_an_unknown_probe_or_measure_is_refused_with_those_there_are(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.json", 0.7), write(tmp_path / "b.json", 0.9)
    result = call(a, b, "--classifier", "svm")
    assert result.exit_code == 2
    assert "neither report has scores of 'svm'; there are probe, logistic, logistic-fixed, knn" in result.stderr
    result = call(a, b, "--classifier", "knn", "--measure", "auroc")
    assert result.exit_code == 2
    assert f"there are {', '.join(MEASURES)}" in result.stderr
    assert all(name in call("--help").stdout for name in MEASURES)


def write_numbers(path: Path, noise: float, seed: int = 1, **task: Any) -> Path:
    """Write a scores.json whose student misses an ejection fraction by so much."""
    rng = np.random.default_rng(seed)
    truth = 55 + 10 * np.random.default_rng(0).standard_normal(200)
    made = add_regression(document(), truth, {"student": truth + noise * rng.standard_normal(200)}, GROUPS)
    made["regression"]["tasks"][0] |= task
    made |= {"tasks": [], "scores": [], "settings": {"seeds": 3, "lr": 1e-3}}
    made["encoders"] = {"student": made["encoders"]["student"]}
    made["encoders"]["student"]["identities"] = {"heart: EF": {"weights": path.name}}
    path.write_text(json.dumps(made))
    return path


def test_errors_of_numbers_are_compared_by_patient_and_lower_is_better(tmp_path: Path) -> None:
    a, b = write_numbers(tmp_path / "a.json", 6.0), write_numbers(tmp_path / "b.json", 3.0, seed=2)
    out = tmp_path / "out.json"
    result = call(a, b, "--json", out)
    assert result.exit_code == 0, result.output
    assert "real: second is better" in result.stdout
    assert "mae, %" in result.stdout
    (told,) = json.loads(out.read_text())["differences"]
    truth = np.array(
        [float(word) for word in json.loads(a.read_text())["regression"]["tasks"][0]["test"]["values"].split()]
    )
    for path, key in ((a, "first"), (b, "second")):
        said = json.loads(path.read_text())["regression"]["scores"][0]["probes"]["ridge"]["predicted"][0]
        wanted = np.abs(np.array(said.split(), dtype=float) - truth).mean()
        assert told[key] == pytest.approx(wanted)
    assert told["interval"][0] < told["difference"] < told["interval"][1] < 0
    assert "real: first is better" in call(b, a).stdout
    assert "real: second is better" in call(a, b, "--measure", "r2").stdout
    assert "not shown to differ" in call(a, write_numbers(tmp_path / "c.json", 6.0, seed=3)).stdout


def test_the_interval_of_a_difference_is_that_of_patients_drawn_by_hand(tmp_path: Path) -> None:
    a, b = write_numbers(tmp_path / "a.json", 6.0), write_numbers(tmp_path / "b.json", 5.0, seed=2)
    call(a, b, "--json", tmp_path / "out.json")
    (told,) = json.loads((tmp_path / "out.json").read_text())["differences"]
    errors = []
    for path in (a, b):
        kept = json.loads(path.read_text())["regression"]
        truth, said = (
            np.array(text.split(), dtype=float)
            for text in (kept["tasks"][0]["test"]["values"], kept["scores"][0]["probes"]["ridge"]["predicted"][0])
        )
        errors.append(np.abs(said - truth))
    by_patient = (errors[1] - errors[0]).reshape(40, 5).mean(axis=1)
    rng = np.random.default_rng(9)
    drawn = by_patient[rng.integers(0, 40, (20000, 40))].mean(axis=1)
    assert told["interval"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.05)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        pytest.param({"unit": "ml"}, "quantity or unit differs", id="unit"),
        pytest.param({"scored": "clip"}, "one report scores each frame, the other each clip", id="clips"),
    ],
)
def test_numbers_that_are_not_the_same_are_left_out_with_the_reason(
    tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    a, b = write_numbers(tmp_path / "a.json", 6.0), write_numbers(tmp_path / "b.json", 3.0, **changed)
    told = call(a, b).stdout
    assert why in told
    assert "Nothing to compare" in told


def test_a_measure_that_is_undefined_is_said_and_not_compared(tmp_path: Path) -> None:
    a, b = write_numbers(tmp_path / "a.json", 6.0), write_numbers(tmp_path / "b.json", 3.0)
    made = json.loads(b.read_text())
    truth = np.array(made["regression"]["tasks"][0]["test"]["values"].split(), dtype=float)
    probe = made["regression"]["scores"][0]["probes"]["ridge"]
    flat = np.full(200, 55.0)
    probe |= {
        "predicted": [packed_floats(flat)],
        "measures": {name: {"mean": value} for name, value in regression_measures(truth, flat).items()},
        "undefined": "Pearson's r is undefined: all predictions are equal",
    }
    b.write_text(json.dumps(made))
    told = call(a, b, "--measure", "pearson").stdout
    assert "student is not compared, Pearson's r is undefined: all predictions are equal." in told


def write_dice(path: Path, level: float, seed: int = 1, **task: Any) -> Path:
    """Write a scores.json whose student has about such a Dice."""
    dice = np.clip(level + 0.1 * np.random.default_rng(seed).standard_normal((3, 200, 2)), 0, 1)
    made = add_segmentation(document(), {"student": dice}, GROUPS)
    made["segmentation"]["tasks"][0] |= task
    made |= {"tasks": [], "scores": [], "settings": {"seeds": 3, "lr": 1e-3}}
    made["encoders"] = {"student": made["encoders"]["student"]}
    made["encoders"]["student"]["identities"] = {"heart: mask": {"weights": path.name}}
    path.write_text(json.dumps(made))
    return path


def test_dice_is_compared_by_patient(tmp_path: Path) -> None:
    a, b = write_dice(tmp_path / "a.json", 0.6), write_dice(tmp_path / "b.json", 0.7, seed=2)
    out = tmp_path / "out.json"
    result = call(a, b, "--json", out)
    assert result.exit_code == 0, result.output
    assert "real: second is better" in result.stdout
    (told,) = json.loads(out.read_text())["differences"]
    assert (told["task"], told["measure"], told["groups"]) == ("heart: mask", "dice", 40)
    assert told["difference"] == pytest.approx(0.1, abs=0.02)
    assert told["interval"][0] < told["difference"] < told["interval"][1]
    assert "not shown to differ" in call(a, write_dice(tmp_path / "c.json", 0.6, seed=3)).stdout
    assert "Nothing to compare" in call(a, b, "--measure", "mae").stdout


def test_dice_of_other_masks_or_of_an_earlier_version_is_not_compared_and_why_is_said(tmp_path: Path) -> None:
    a = write_dice(tmp_path / "a.json", 0.6)
    other = write_dice(tmp_path / "b.json", 0.7, test={"groups": 40, "digest": "1"})
    assert "content, masks or groups" in call(a, other).stdout
    old = json.loads(write_dice(tmp_path / "old.json", 0.7).read_text())
    del old["segmentation"]["tasks"][0]["test"], old["segmentation"]["scores"][0]["by_group"]
    (tmp_path / "old.json").write_text(json.dumps({**old, "format": 4}))
    assert "an earlier version keeps no Dice by patient" in call(a, tmp_path / "old.json").stdout
    fewer = json.loads(write_dice(tmp_path / "fewer.json", 0.7).read_text())
    del fewer["segmentation"]["tasks"][0]["floor"]["classes"]["atrium"]
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    assert "an earlier version counts classes that no test mask" in call(a, tmp_path / "fewer.json").stdout


def test_all_differences_of_a_call_are_one_family(tmp_path: Path) -> None:
    paths = []
    for name, seed in (("a", 1), ("b", 2)):
        numbers = json.loads(write_numbers(tmp_path / "n.json", 6.0 / seed, seed).read_text())
        masks = json.loads(write_dice(tmp_path / "m.json", 0.5 + 0.1 * seed, seed).read_text())
        both = {**numbers, "segmentation": masks["segmentation"]}
        both["encoders"]["student"]["identities"] = {"heart: EF": {"w": name}, "heart: mask": {"w": name}}
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(both))
    call(*paths, "--json", tmp_path / "out.json")
    told = json.loads((tmp_path / "out.json").read_text())["differences"]
    assert [one["measure"] for one in told] == ["mae", "dice"]
    assert max(one["p_holm"] for one in told) == pytest.approx(2 * min(one["p"] for one in told))
