"""Does it learn? `make results`: students against their teacher and everything simpler, three training seeds each.

`python -m benchmarks.learning [--source FOLDER] [--seeds 3] [--work results]`: builds the store, trains the pixel
teacher, builds its latents (fp16 and int8), trains each condition from each seed, probes every encoder on the groups of
patients that no training saw, and prints a table. Conditions differ from the demo's recipe by one setting each; the
pixel-only encoder gets the epochs of teacher and student together. Every stage resumes: a second call does what is
left.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe
from usjepa.cache.recipe import load_recipe

BIN = Path(sys.executable).parent
STUDENT, PIXEL_ONLY = "student", "pixels only, equal compute"
DATA = {
    # Another phantom than the one on which the recipe was chosen (seed 0; docs/results.md): its patients are all new.
    "phantom": ("cache.phantom.patients=200", "cache.phantom.seed=1"),
    "source": (),
}


@dataclass(frozen=True)
class Condition:
    """One row of the table."""

    name: str
    store: str
    recipe: str
    sets: tuple[str, ...] = ()


def conditions(epochs: int) -> list[Condition]:
    return [
        Condition(STUDENT, "k1", "demo", ("train.teacher=demo",)),
        Condition(PIXEL_ONLY, "k1", "demo-teacher", (f"train.epochs={epochs}",)),
        Condition("plain masks", "k1", "demo", ("train.teacher=demo", "train.masks.regions=false")),
        Condition("int8 targets", "k1", "demo", ("train.teacher=demo-int8",)),
        Condition("4 views", "k4", "demo", ("train.teacher=demo",)),
        Condition("targets as they are", "k1", "demo", ("train.teacher=demo", "train.target_norm=none")),
        Condition("targets standardised", "k1", "demo", ("train.teacher=demo", "train.target_norm=standardised")),
    ]  # fmt: skip


class Work:
    """Commands in a folder, at most as many at once as there are cores, a thread each."""

    def __init__(self, folder: Path, source: str | None) -> None:
        self.folder, self.source = folder, source
        self.sets = DATA["source" if source else "phantom"]
        folder.mkdir(parents=True, exist_ok=True)

    def call(self, command: str, *arguments: str, sets: tuple[str, ...] = ()) -> None:
        flags = [flag for value in sets for flag in ("--set", value)]
        with (self.folder / "log.txt").open("a") as log:
            done = subprocess.run(
                [str(BIN / command), *arguments, *flags],
                stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
            )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{command} {' '.join(arguments)} ended with {done.returncode}: see {self.folder}/log.txt")

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def build(self, store: str, *more: str, sets: tuple[str, ...] = ()) -> None:
        source = ("--source", self.source) if self.source else ()
        self.call(
            "usjepa-cache", "build", self.path(f"{store}.zarr"), "--pipeline", "demo", *source, *more,
            sets=(*self.sets, *sets),
        )  # fmt: skip

    def stores(self) -> None:
        """Pixels, then the teacher that learns from them, then its latents in both precisions."""
        four = ("cache.views.count=4",)
        self.build("k1")
        self.build("k4", sets=four)
        self.call("usjepa-train", self.path("k1.zarr"), self.path("teacher"), "--pipeline", "demo-teacher")
        teacher = ("--teacher", self.path("teacher"))
        self.build("k1", *teacher)
        self.build("k1", *teacher, sets=("cache.teacher.name=demo-int8", "cache.precision=int8"))
        self.build("k4", *teacher, sets=four)

    def run(self, condition: Condition, seed: int) -> str:
        """Train and evaluate; returns the report's folder."""
        name = f"{condition.name} {seed}".replace(",", "").replace(" ", "-")
        store, run, report = self.path(f"{condition.store}.zarr"), self.path(f"run-{name}"), self.path(f"report-{name}")
        sets = (*condition.sets, f"train.seed={seed}")
        self.call("usjepa-train", store, run, "--pipeline", condition.recipe, sets=sets)
        first = condition.name == STUDENT and seed == 0
        fast = ("evaluate.corruptions=[]", "evaluate.few_shot=[]")
        baselines = fast if first else (*fast, "evaluate.baselines=[]")
        # Every encoder is probed on the same task: the one view of the frames of test patients.
        self.call(
            "usjepa-evaluate", run, "--task", self.path("k1.zarr"), "--pipeline", "demo", "-o", report, sets=baselines
        )
        return report


def score_of(report: str, encoder: str) -> dict[str, float]:
    """Task -> macro F1 in percent, mean over the probe's seeds."""
    document = json.loads((Path(report) / "scores.json").read_text())
    return {
        scores["task"]: 100 * scores["probe"]["macro_f1"]["mean"]
        for scores in document["scores"]
        if scores["encoder"] == encoder
    }


def table(rows: dict[str, list[dict[str, float]]]) -> list[str]:
    tasks = sorted({task for scores in rows.values() for one in scores for task in one})
    lines = [f"| encoder | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name, scores in rows.items():
        cells = []
        for task in tasks:
            values = [one[task] for one in scores if task in one]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread} ({len(values)})" if values else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--source", help="folder of real frames; none: the phantom")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("results"))
    parser.add_argument("--only", nargs="*", help="names of conditions; none: all")
    args = parser.parse_args()
    started = time.monotonic()
    work = Work(args.work / ("source" if args.source else "phantom"), args.source)
    work.stores()
    epochs = load_recipe("demo").train.epochs + load_recipe("demo-teacher").train.epochs
    wanted = [condition for condition in conditions(epochs) if not args.only or condition.name in args.only]
    jobs = [(condition, seed) for seed in range(args.seeds) for condition in wanted]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        reports = list(pool.map(lambda job: work.run(*job), jobs))
    rows: dict[str, list[dict[str, float]]] = {condition.name: [] for condition in wanted}
    for (condition, _), report in zip(jobs, reports, strict=True):
        rows[condition.name].append(score_of(report, "student"))
    first = next(report for (condition, _), report in zip(jobs, reports, strict=True) if condition.name == STUDENT)
    for encoder, name in (
        ("teacher", "its pixel teacher"), ("random", "random weights"), ("pixels", "32x32 pixels"), ("hog", "HOG"),
    ):  # fmt: skip
        rows[name] = [score_of(first, encoder)]
    minutes = (time.monotonic() - started) / 60
    print(f"macro F1, %: mean ± sd (training seeds); {minutes:.0f} minutes")
    print("\n".join(table(rows)))
    name = "learning-source" if args.source else "learning-phantom"
    content = {"machine": describe(("torch", "timm", "usjepa")), "minutes": minutes, "macro_f1": rows}
    (Path(__file__).parent / "results" / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
