"""Claims about `make results-gpu`: what minutes buy, and that it runs to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.learning.budget import RECIPES, Speed, speed_of
from benchmarks.learning.conditions import first_of
from benchmarks.learning.forking import ForkedWork
from benchmarks.learning.scores import STUDENT
from usjepa.cache.recipes.recipe import load_recipe


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
@pytest.mark.timeout(1200)
def test_all_of_it_runs_on_a_processor_within_its_minutes(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.learning.budget", "--minutes", "2", "--recipe", "tiny", "--work", tmp_path],
        env={**os.environ, "USJEPA_RESULTS": str(tmp_path / "results")}, text=True, capture_output=True, timeout=900,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr[-2000:]
    assert "of 2 minutes" in made.stdout
    found = json.loads((tmp_path / "results/learning-gpu-tiny.json").read_text())
    assert [one["step"] for one in found["steps"]] == [
        "pixels and regions", "speed of contrastive teacher", "train: contrastive teacher, seed 0", "latents",
        "speed of student", "train: student, seed 0", "train: student, seed 1", "reports",
    ]  # fmt: skip
    assert len(found["macro_f1"][STUDENT]) == 2
    assert {one["other"] for one in found["tests"] if one["row"] == STUDENT} >= {"random weights", "32x32 pixels"}


@pytest.mark.slow
def test_a_forked_command_prints_to_the_log_and_one_that_fails_ends_the_work(tmp_path: Path) -> None:
    work = ForkedWork(tmp_path, None)
    work.call("version", "usjepa-cache", "--version")
    assert "usjepa" in work.log.read_text()
    with pytest.raises(SystemExit, match=r"ended with 2: see .*log\.txt"):
        work.call("train", "usjepa-train", "no such store", "run")
    assert "needs --pipeline" in work.log.read_text()
    assert [part for part in work.times() if work.times()[part]["cpu_s"] > 0] == ["version", "train"]
