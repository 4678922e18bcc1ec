"""Claims about `usjepa-evaluate compare`: same frames only, real differences named, chance not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from click.testing import CliRunner, Result

from usjepa.evaluate.cli import main
from usjepa.evaluate.scoring import unwritten, written

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TRUTH = np.random.default_rng(0).integers(0, 3, 200)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)], catch_exceptions=False)


def said(right: float, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(TRUTH)) < right, TRUTH, rng.integers(0, 3, len(TRUTH)))


def document(student: float, seed: int = 0, digest: str = "a", groups: int = 50) -> dict[str, Any]:
    """Return what compare reads of a report."""
    test = {"digest": digest, "truth": written(TRUTH), "groups": written(np.arange(len(TRUTH)) % groups)}
    task = {"name": "lung", "classes": ["a", "b", "c"], "test": test, "identity": {"frames": "x"}}
    scores = [
        {"task": "lung", "encoder": key, "probe": {"predictions": [written(said(right, seed + i)) for i in range(2)]}}
        for key, right in (("student", student), ("hog", 0.5))
    ]
    titles = {"student": {"title": "Student (this run)"}, "hog": {"title": "Edges (HOG)"}}
    return {"format": 2, "settings": {"resamples": 1000}, "tasks": [task], "scores": scores, "encoders": titles}


def write(folder: Path, name: str, made: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(made))
    return path


def test_a_real_difference_is_told_from_chance(tmp_path: Path) -> None:
    one, other = write(tmp_path, "a.json", document(0.9)), write(tmp_path, "b.json", document(0.4, 50))
    result = call(one, other)
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()[:2]
    assert first.startswith("real       lung: Student (this run): +")
    assert second.startswith("not shown  lung: Edges (HOG)")
    assert "1 of 2 differences in macro F1 are real" in result.stdout


def test_a_report_does_not_differ_from_itself(tmp_path: Path) -> None:
    one = write(tmp_path, "scores.json", document(0.9))
    found = json.loads(call(one, tmp_path, "--json").stdout)
    assert [(line["difference"], line["real"]) for line in found["lines"]] == [(0.0, False)] * 2


def test_one_encoder_is_compared_with_another(tmp_path: Path) -> None:
    one = write(tmp_path, "a.json", document(0.9))
    result = call(one, one, "--encoders", "student", "hog")
    assert "Student (this run) against Edges (HOG)" in result.stdout
    assert call(one, one, "--encoders", "student", "dog").exit_code == 2


def test_other_test_frames_are_not_compared(tmp_path: Path) -> None:
    one, other = write(tmp_path, "a.json", document(0.9)), write(tmp_path, "b.json", document(0.4, digest="b"))
    result = call(one, other)
    assert result.exit_code == 2
    assert "lung: other test frames, labels or groups in the second." in result.stderr


def test_few_groups_and_other_training_frames_are_told(tmp_path: Path) -> None:
    one, other = document(0.9, groups=5), document(0.4, groups=5)
    other["tasks"][0]["identity"]["frames"] = "y"
    result = call(write(tmp_path, "a.json", one), write(tmp_path, "b.json", other))
    assert "5 test groups are too few to call any difference real" in result.stdout
    assert "training or validation frames differ" in result.stdout
    assert "0 of 2" in result.stdout


def test_what_is_no_report_is_refused_by_name(tmp_path: Path) -> None:
    good = write(tmp_path, "a.json", document(0.9))
    (tmp_path / "text.json").write_text("{")
    old = write(tmp_path, "old.json", {**document(0.9), "format": 1})
    for bad, message in (
        (tmp_path / "none.json", "none.json: can't be read"),
        (tmp_path / "text.json", "text.json: not the scores.json of a report"),
        (old, "format 1, this version compares format 2"),
    ):
        result = call(good, bad)
        assert result.exit_code == 2
        assert message in result.stderr


def test_numbers_survive_being_written() -> None:
    numbers = np.array([0, 12, 3])
    assert unwritten(written(numbers)).tolist() == [0, 12, 3]
    assert unwritten("").tolist() == []


def test_run_first_and_a_named_command_both_work() -> None:
    for arguments in (["nowhere", "--task", "x"], ["score", "nowhere", "--task", "x"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert "no such folder" in result.stderr
    told = CliRunner().invoke(main, ["--help"]).stdout
    assert "--task" in told
    assert "compare" in told
