"""Claims about `usjepa-evaluate compare`: real differences are named, luck is not, what can't be compared is said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.support.documents import document
from usjepa.evaluate.cli import main
from usjepa.evaluate.compare import MEASURES
from usjepa.evaluate.scores.metrics import packed

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


def test_what_is_no_report_is_refused_and_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", 0.7)
    whole = json.loads(a.read_text())
    (tmp_path / "old.json").write_text('{"format": 1}')
    (tmp_path / "newer.json").write_text(json.dumps({**whole, "format": 5}))
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
        ("old.json", "format 1, this version reads 4"),
        ("newer.json", "format 5, this version reads 4"),
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
    result = call(a, b, "--measure", "auroc")
    assert result.exit_code == 2
    assert f"there are {', '.join(MEASURES)}" in result.stderr
    assert all(name in call("--help").stdout for name in MEASURES)
