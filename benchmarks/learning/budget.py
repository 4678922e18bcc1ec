"""Learn as much as some minutes of one GPU allow: `make results-gpu MINUTES=10`.

    python -m benchmarks.learning.budget [--minutes 10] [--recipe gpu | tiny] [--source FOLDER] [--work results]

Pixels, a contrastive teacher, its latents, two students of other seeds, a report of each: ViT-S/16 at 224. How many
epochs a training gets follows from its speed, measured over one epoch of its own, and from the minutes that are left;
what each step took and was given stands in benchmarks/results/learning-gpu.json. Encoders are evaluated at once; what
it takes to start each command is measured and kept back. `--recipe tiny` shows on a processor that the command works;
its scores say nothing. A second call with the same folder measures and divides anew, and does again only what then has
other epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning.conditions import OWN, Condition, first_of
from benchmarks.learning.forking import ForkedWork
from benchmarks.learning.pooled import lines_of, pooled_differences
from benchmarks.learning.scores import STUDENT, Scored, read_rows, table
from benchmarks.learning.work import POOLINGS, Work
from benchmarks.machine import describe, write_results

RECIPES = str(Path(__file__).with_name("gpu.yaml"))
SEEDS = 2
REPORTS_SHARE = 0.2
"""Of all minutes, kept for latents and what reports compute."""
ENCODERS = SEEDS + 1
"""The teacher's and the students', each evaluated by the recipe's pooling and by the others."""
REPORT_STARTS = (1 + len(POOLINGS)) * ENCODERS / min(ENCODERS, os.cpu_count() or 1)
"""Starts of a report, one after another."""
TEACHER_SHARE = 0.4
"""Of what is left when the pixels are there: for the first stage. Students share the rest."""
MOST_EPOCHS = 400


@dataclass(frozen=True)
class Speed:
    """What an epoch of a training takes."""

    images: int
    images_per_s: float
    starting_s: float
    """What a command takes beside its steps."""

    def epochs_in(self, seconds: float) -> int:
        """Return how many epochs fit, at least one."""
        fitting = (seconds - self.starting_s) * self.images_per_s / self.images
        return max(1, min(MOST_EPOCHS, int(fitting)))


class Budget:
    """Minutes, and what they were given to."""

    def __init__(self, work: Work, minutes: float) -> None:
        self.work, self.begun, self.seconds = work, time.monotonic(), 60 * minutes
        self.steps: list[dict[str, Any]] = []
        self.starting_s = 0.0
        """What a command takes beside its steps: the longest measured."""

    def left_s(self, starts: int = 0) -> float:
        """Return the seconds for training until the reports must begin, without the starts of other commands."""
        kept_s = REPORTS_SHARE * self.seconds + (starts + REPORT_STARTS) * self.starting_s
        return self.seconds - kept_s - (time.monotonic() - self.begun)

    def step(self, name: str, begun: float, **about: Any) -> None:
        """Note what a step took."""
        self.steps.append({"step": name, "seconds": round(time.monotonic() - begun, 1), **about})
        print(f"{name}: {self.steps[-1]['seconds']} s {about or ''}", flush=True)

    def train(self, condition: Condition, seed: int, speed: Speed, seconds: float) -> None:
        """Train for as many epochs as fit into some seconds."""
        begun, epochs = time.monotonic(), speed.epochs_in(seconds)
        sets = (*condition.sets, f"train.epochs={epochs}", f"train.warmup_epochs={min(1, epochs - 1)}")
        made = Condition(condition.name, condition.store, condition.recipe, sets)
        run = Path(self.work.run_of(condition.name, seed))
        if run.exists() and _epochs_of(run) != epochs:
            shutil.rmtree(run)  # of another budget: its schedule is another
        self.work.train(made, seed)
        told = {"epochs": epochs, "images_per_epoch": speed.images, "images_per_s": round(speed.images_per_s, 1)}
        self.step(f"train: {condition.name}, seed {seed}", begun, given_s=round(seconds, 1), **told)

    def measure(self, condition: Condition) -> Speed:
        """Train one epoch into a folder that is thrown away."""
        once = ("train.epochs=1", "train.warmup_epochs=0", "train.knn_every=0")
        tried = Condition(f"speed of {condition.name}", condition.store, condition.recipe, (*condition.sets, *once))
        shutil.rmtree(self.work.run_of(tried.name, 0), ignore_errors=True)
        begun = time.monotonic()
        run = Path(self.work.train(tried, 0))
        speed = speed_of(run / "log.jsonl", time.monotonic() - begun)
        shutil.rmtree(run)
        self.starting_s = max(self.starting_s, speed.starting_s)
        self.step(tried.name, begun, starting_s=round(speed.starting_s, 1))
        return speed


def speed_of(log: Path, wall_s: float) -> Speed:
    """Return the speed that the second half of a log of one epoch tells; all that is slower counts as starting."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    per_s = statistics.median(line["images_per_s"] for line in steps[len(steps) // 2 :])
    images = sum(line["images"] for line in steps)
    return Speed(images, per_s, max(0.0, wall_s - images / per_s))


def _epochs_of(run: Path) -> int | None:
    recipe = run / "recipe.json"
    return int(json.loads(recipe.read_text())["train"]["epochs"]) if recipe.exists() else None


def main() -> None:
    """Run it all; exits with 1 if the minutes did not suffice for one epoch of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--recipe", choices=("gpu", "tiny"), default="gpu")
    parser.add_argument("--source", help="folder of real frames; none: the phantom")
    parser.add_argument("--work", type=Path, default=Path("results/gpu"))
    asked = parser.parse_args()
    work = ForkedWork(asked.work / asked.recipe, asked.source, 0, asked.recipe, RECIPES)
    scored, budget = run(work, asked.minutes)
    tests = pooled_differences(scored, STUDENT)
    minutes = round((time.monotonic() - budget.begun) / 60, 2)
    content = {
        "machine": describe(("torch", "timm", "usjepa")), "device": _device(), "recipe": asked.recipe,
        "minutes": {"asked": asked.minutes, "taken": minutes}, "steps": budget.steps,
        "macro_f1": read_rows(scored), "tests": tests,
    }  # fmt: skip
    write_results("learning-gpu" if asked.recipe == "gpu" else "learning-gpu-tiny", content)
    print("\n".join([*table(content["macro_f1"]), "", *lines_of(tests), f"{minutes} of {asked.minutes:g} minutes"]))
    sys.exit(minutes > asked.minutes * 1.25)


def run(work: Work, minutes: float) -> tuple[list[Scored], Budget]:
    """Build, train and score within some minutes; return where the scores are."""
    budget, first = Budget(work, minutes), first_of(work.recipe, "contrast", RECIPES)
    begun = time.monotonic()
    work.build("pixels and regions", OWN, 0)
    budget.step("pixels and regions", begun)
    teacher = Condition(first.row, OWN, first.recipe)
    speed = budget.measure(teacher)
    # Two commands lie between it and the students: its latents, and the measuring of a student.
    budget.train(teacher, 0, speed, TEACHER_SHARE * budget.left_s(starts=2))
    begun = time.monotonic()
    work.latents(OWN, 0, first)
    budget.step("latents", begun)
    student = Condition(STUDENT, OWN, work.recipe, (f"train.teacher={first.latents}",), (first,))
    speed = budget.measure(student)
    for seed in range(SEEDS):
        budget.train(student, seed, speed, budget.left_s() / (SEEDS - seed))
    begun = time.monotonic()
    encoders = [*((student, seed) for seed in range(SEEDS)), (teacher, 0)]
    with ThreadPoolExecutor(ENCODERS) as pool:
        scored = [one for found in pool.map(lambda encoder: work.reports(*encoder), encoders) for one in found]
    budget.step("reports", begun)
    return scored, budget


def _device() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
