"""Claims about `usjepa-evaluate compare`: real differences are named, luck is not, what can't be compared is said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from usjepa.evaluate.cli import main
from usjepa.evaluate.scores.metrics import packed

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = np.repeat(np.arange(40), 5)
TRUTH = np.random.default_rng(0).integers(0, 2, 200)


def write(path: Path, right: float, seed: int = 1, weights: str = "", **changed: Any) -> Path:
    """Write a scores.json whose student is right about a share of the frames."""
    rng = np.random.default_rng(seed)
    predicted = [np.where(rng.random(200) < right, TRUTH, 1 - TRUTH) for _ in range(3)]
    task = {
        "name": "lung",
        "classes": ["cyst", "none"],
        "test": {"labels": packed(TRUTH), "groups": packed(GROUPS)},
        "identity": {"store": "0", "frames": "0"},
        **changed,
    }
    told = {"predicted": [packed(one) for one in predicted]}
    scores = {"task": task["name"], "encoder": "student", "probe": told, "knn": {"predicted": told["predicted"][0]}}
    document = {
        "format": 2,
        "settings": {"seeds": 3, "lr": 1e-3},
        "encoders": {"student": {"identities": {task["name"]: {"weights": weights or path.name}}}},
        "tasks": [task],
        "scores": [scores],
    }
    path.write_text(json.dumps(document))
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
    document = json.loads(write(tmp_path / "a.json", 0.65).read_text())
    better = json.loads(write(tmp_path / "b.json", 0.9, seed=2).read_text())
    document["encoders"]["teacher"] = better["encoders"]["student"]
    document["scores"].append({**better["scores"][0], "encoder": "teacher"})
    a = tmp_path / "both.json"
    a.write_text(json.dumps(document))
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
        pytest.param({"test": {"labels": packed(1 - TRUTH), "groups": packed(GROUPS)}}, "test frames", id="labels"),
    ],
)
def test_tasks_that_are_not_the_same_are_left_out_with_the_reason(
    tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    a, b = write(tmp_path / "a.json", 0.7), write(tmp_path / "b.json", 0.9, **changed)
    assert why in call(a, b).stdout


def test_few_patients_other_stores_and_other_protocols_are_told(tmp_path: Path) -> None:
    few: dict[str, Any] = {"test": {"labels": packed(TRUTH), "groups": packed(GROUPS // 10)}}
    a = write(tmp_path / "a.json", 0.7, **few)
    b = write(tmp_path / "b.json", 0.9, identity={"store": "1", "frames": "0"}, **few)
    document = json.loads(b.read_text())
    document["settings"]["lr"] = 1.0
    b.write_text(json.dumps(document))
    told = call(a, b).stdout
    assert "not shown to differ" in told
    for note in ("4 test groups are too few to call any difference real", "two stores", "lr 0.001 | 1.0"):
        assert note in told


def test_what_is_no_report_is_refused_and_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", 0.7)
    (tmp_path / "old.json").write_text('{"format": 1}')
    (tmp_path / "no.json").write_text("[]")
    for name, told in (("old.json", "format 1"), ("no.json", "not a report's"), ("gone.json", "no such file")):
        result = call(a, tmp_path / name)
        assert result.exit_code == 2
        assert told in result.stderr
        assert name in result.stderr
