"""Does it learn? `make results`: students against their teacher and everything simpler, three training seeds each.

`python -m benchmarks.learning [--source FOLDER] [--seeds 3] [--work results]`: builds the stores, trains the pixel
teacher, builds its latents (fp16 and int8), trains each condition from each seed, probes every encoder on the groups of
patients that no training saw, and prints a table. A condition differs from the demo's recipe by the one setting that
its row names; rows of mean pooling score encoders once more, by the plain mean of their patch tokens. The teacher of
every student is that of seed 0; the pixel-only encoder gets the epochs of teacher and student together. Every stage
resumes: a second call does what is left. Of every command the processor's and the clock's time are kept: processor
minutes over the number of cores is what an idle machine would need.
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
from typing import TYPE_CHECKING, Any

from benchmarks.machine import describe
from usjepa.cache.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterable

BIN = Path(sys.executable).parent
STUDENT, TEACHER, PIXEL_ONLY = "student", "pixel teacher", "pixels only, equal compute"
DATA = {
    # Another phantom than those that were looked at while the recipe was chosen (seeds 0 to 3; docs/results.md).
    "phantom": ("cache.phantom.patients=200", "cache.phantom.seed=4"),
    "source": (),
}
MEAN = ", mean pooling"
"""Behind the names of rows that are scored so as well."""
ALSO_MEAN = (STUDENT, TEACHER, PIXEL_ONLY)
BASELINES = {"random": "random weights", "pixels": "32x32 pixels", "hog": "HOG"}
GOALS = (("random weights", 10.0), ("32x32 pixels", 0.0))
"""What the student must beat on the phantom, and by how many points of macro F1."""


Rows = dict[str, list[dict[str, dict[str, Any]]]]
"""Row of the table -> for each training seed, task -> scores."""


@dataclass(frozen=True)
class Condition:
    """One row of the table."""

    name: str
    store: str
    recipe: str
    sets: tuple[str, ...] = ()


def conditions() -> list[Condition]:
    student = load_recipe("demo").train
    both = student.epochs + load_recipe("demo-teacher").train.epochs
    regions = "masks over the whole frame" if student.masks.regions else "masks inside the region"
    return [
        Condition(STUDENT, "k1", "demo", ("train.teacher=demo",)),
        Condition(TEACHER, "k1", "demo-teacher"),
        Condition(PIXEL_ONLY, "k1", "demo-teacher", (f"train.epochs={both}",)),
        Condition(regions, "k1", "demo",
                  ("train.teacher=demo", f"train.masks.regions={str(not student.masks.regions).lower()}")),
        Condition("int8 targets", "k1", "demo", ("train.teacher=demo-int8",)),
        Condition("4 views", "k4", "demo", ("train.teacher=demo",)),
        Condition("targets as they are", "k1", "demo", ("train.teacher=demo", "train.target_norm=none")),
        Condition("targets standardised", "k1", "demo", ("train.teacher=demo", "train.target_norm=standardised")),
    ]  # fmt: skip


class Work:
    """Commands in a folder, at most as many at once as there are cores, a thread each; what they took is kept."""

    def __init__(self, folder: Path, source: str | None) -> None:
        self.folder, self.source = folder, source
        self.sets = DATA["source" if source else "phantom"]
        folder.mkdir(parents=True, exist_ok=True)

    def call(self, part: str, command: str, *arguments: str, sets: tuple[str, ...] = ()) -> None:
        """Run a command and add its time to `times.jsonl`; SystemExit where it fails."""
        flags = [flag for value in sets for flag in ("--set", value)]
        started = time.monotonic()
        with (self.folder / "log.txt").open("a") as log:
            process = subprocess.Popen(
                [str(BIN / command), *arguments, *flags],
                stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            # wait4 tells the time of this child and of its own; RUSAGE_CHILDREN would mix those that run beside it.
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        line = {"part": part, "cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": time.monotonic() - started}
        with (self.folder / "times.jsonl").open("a") as times:
            times.write(json.dumps(line) + "\n")
        if process.returncode:
            raise SystemExit(
                f"{command} {' '.join(arguments)} ended with {process.returncode}: see {self.folder}/log.txt"
            )

    def times(self) -> dict[str, dict[str, float]]:
        """Part -> commands and seconds, those of earlier calls included."""
        found: dict[str, dict[str, float]] = {}
        for text in (self.folder / "times.jsonl").read_text().splitlines():
            line = json.loads(text)
            part = found.setdefault(line["part"], {"commands": 0, "cpu_s": 0.0, "wall_s": 0.0})
            part["commands"] += 1
            for unit in ("cpu_s", "wall_s"):
                part[unit] = round(part[unit] + line[unit], 1)
        return found

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def build(self, part: str, store: str, *more: str, sets: tuple[str, ...] = ()) -> None:
        source = ("--source", self.source) if self.source else ()
        self.call(
            part, "usjepa-cache", "build", self.path(f"{store}.zarr"), "--pipeline", "demo", *source, *more,
            sets=(*self.sets, *sets),
        )  # fmt: skip

    def stores(self, pool: ThreadPoolExecutor) -> None:
        """Pixels, then the teacher that learns from them, then its latents in both precisions."""
        four = ("cache.views.count=4",)
        views = pool.submit(self.build, "pixels and regions", "k4", sets=four)
        self.build("pixels and regions", "k1")
        self.train(Condition(TEACHER, "k1", "demo-teacher"), 0)
        views.result()
        teacher = ("--teacher", self.run_of(TEACHER, 0))
        views = pool.submit(self.build, "latents", "k4", *teacher, sets=four)
        self.build("latents", "k1", *teacher)
        self.build("latents", "k1", *teacher, sets=("cache.teacher.name=demo-int8", "cache.precision=int8"))
        views.result()

    def run_of(self, name: str, seed: int) -> str:
        return self.path(f"run-{name} {seed}".replace(",", "").replace(" ", "-"))

    def train(self, condition: Condition, seed: int) -> str:
        """Train; returns the run's folder."""
        run = self.run_of(condition.name, seed)
        self.call(
            f"train: {condition.name}", "usjepa-train", self.path(f"{condition.store}.zarr"), run, "--pipeline",
            condition.recipe, sets=(*condition.sets, f"train.seed={seed}"),
        )  # fmt: skip
        return run

    def score(self, condition: Condition, seed: int) -> Rows:
        """Train and evaluate; returns the scores of the encoder and, beside students, of the baselines.

        Random weights are drawn anew beside every seed of the student; pixels and HOG have nothing to draw.
        """
        run = self.train(condition, seed)
        beside = ["random"] if condition.name == STUDENT else []
        if beside and seed == 0:
            beside += ["pixels", "hog"]
        draw = f"evaluate.random_seed={seed}"
        document = self.evaluate(run, "report-", beside, draw)
        rows: Rows = {condition.name: [scores_of(document, "student")]}
        rows |= {BASELINES[encoder]: [scores_of(document, encoder)] for encoder in beside}
        if condition.name in ALSO_MEAN:
            mean = self.evaluate(run, "mean-", beside[:1], draw, "evaluate.pooling=mean")
            rows[condition.name + MEAN] = [scores_of(mean, "student")]
            rows |= {BASELINES[encoder] + MEAN: [scores_of(mean, encoder)] for encoder in beside[:1]}
        return rows

    def evaluate(self, run: str, prefix: str, baselines: list[str], *sets: str) -> dict[str, Any]:
        """Return a report's document. Every encoder is probed on the same task: one view of test patients' frames."""
        report = Path(run).with_name(Path(run).name.replace("run-", prefix, 1))
        named = f"evaluate.baselines=[{','.join(baselines)}]"
        short = ("evaluate.corruptions=[]", "evaluate.few_shot=[]", "evaluate.bootstrap=2000")
        self.call(
            "evaluate", "usjepa-evaluate", run, "--task", self.path("k1.zarr"), "--pipeline", "demo", "-o", str(report),
            sets=(*short, named, *sets),
        )  # fmt: skip
        document: dict[str, Any] = json.loads((report / "scores.json").read_text())
        return document


def scores_of(document: dict[str, Any], encoder: str) -> dict[str, dict[str, Any]]:
    """Task -> what the report tells of an encoder, in percent of macro F1."""
    found = {}
    for scores in document["scores"]:
        if scores["encoder"] == encoder:
            probe, knn = scores["probe"]["macro_f1"], scores["knn"]
            found[scores["task"]] = {
                "probe": 100 * probe["mean"],
                "probe_sd": 100 * probe["sd"],
                "probe_interval": [100 * end for end in probe.get("interval") or ()],
                "logistic": 100 * scores["logistic"]["macro_f1"],
                "knn": 100 * knn["macro_f1"],
            }
    return found


def joined(parts: Iterable[Rows]) -> Rows:
    """Join the rows of jobs, whose seeds come in order; rows of mean pooling stand last."""
    rows: Rows = {}
    for part in parts:
        for name, scores in part.items():
            rows.setdefault(name, []).extend(scores)
    return dict(sorted(rows.items(), key=lambda row: MEAN in row[0]))


def values_of(rows: Rows, name: str, task: str, measure: str = "probe") -> list[float]:
    return [one[task][measure] for one in rows[name] if task in one]


def told(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}" if values else "-"


def table(rows: Rows) -> list[str]:
    """Mean and deviation over training seeds: the paper's probe; k-NN."""
    tasks = sorted({task for scores in rows.values() for one in scores for task in one})
    lines = [f"| encoder | seeds | {' | '.join(tasks)} |", "|---" * (len(tasks) + 2) + "|"]
    for name, scores in rows.items():
        cells = [f"{told(values_of(rows, name, task))}; {told(values_of(rows, name, task, 'knn'))}" for task in tasks]
        lines.append(f"| {name} | {len(scores)} | {' | '.join(cells)} |")
    return lines


def verdicts(rows: Rows, task: str) -> list[str]:
    """The phantom's goals by the means over training seeds, met or not: as the demo pools and by plain means."""
    lines = []
    for pooling in ("", MEAN):
        if STUDENT + pooling not in rows:
            continue
        mine = statistics.mean(values_of(rows, STUDENT + pooling, task))
        for name, least in GOALS:
            other = name + pooling if name + pooling in rows else name  # pixels are not pooled
            gained = mine - statistics.mean(values_of(rows, other, task))
            met = gained >= least and gained > 0
            line = f"{STUDENT}{pooling} over {other}: {gained:+.1f} points"
            lines.append(f"{line}; goal {least:g}: {'met' if met else 'NOT met'}")
    return lines


def differences(rows: Rows, trained: list[str]) -> dict[str, dict[str, list[float]]]:
    """Condition -> task -> for each training seed, its probe's score minus the student's of the same seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in trained:
        for task in rows[STUDENT][0]:
            # The teacher has one seed: it is compared with the student of that seed.
            pairs = zip(values_of(rows, name, task), values_of(rows, STUDENT, task), strict=False)
            found.setdefault(name, {})[task] = [one - other for one, other in pairs]
    return found


def int8_told(rows: Rows) -> list[str]:
    """Whether int8's probe lies within the spread of fp16's over training seeds: a claim of the store's precision."""
    lines = []
    for task in rows[STUDENT][0]:
        exact, coarse = values_of(rows, STUDENT, task), values_of(rows, "int8 targets", task)
        if len(exact) < 2 or not coarse:
            continue
        difference, spread = statistics.mean(coarse) - statistics.mean(exact), statistics.stdev(exact)
        verdict = "within" if abs(difference) <= spread else "NOT within"
        lines.append(f"{task}: int8 minus fp16: {difference:+.1f} points, {verdict} fp16's deviation of {spread:.1f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--source", help="folder of real frames; none: the phantom")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("results"))
    parser.add_argument("--only", nargs="*", help="names of conditions; none: all")
    args = parser.parse_args()
    started = time.monotonic()
    data = "source" if args.source else "phantom"
    work = Work(args.work / data, args.source)
    wanted = [one for one in conditions() if not args.only or one.name in (STUDENT, *args.only)]
    # The student's seeds first: what was cut short still answers the first question.
    jobs = [(one, seed) for one in wanted for seed in range(1 if one.name == TEACHER else args.seeds)]
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        work.stores(pool)
        rows = joined(pool.map(lambda job: work.score(*job), jobs))
    times = work.times()
    content: dict[str, Any] = {
        "machine": describe(("torch", "timm", "usjepa")),
        "this_call_minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_minutes_over_cores": round(sum(part["cpu_s"] for part in times.values()) / 60 / cores, 1),
        "times": times,
        "recipes": {name: load_recipe(name).model_dump(mode="json") for name in ("demo", "demo-teacher")},
        "store": list(work.sets),
        "conditions": {one.name: {"store": one.store, "recipe": one.recipe, "set": one.sets} for one in wanted},
        "goals": verdicts(rows, "phantom") if data == "phantom" else [],
        "int8": int8_told(rows) if "int8 targets" in rows else [],
        "macro_f1": rows,
        "minus_student": differences(rows, [one.name for one in wanted]),
    }
    print(f"macro F1, %, mean ± sd over training seeds: probe; k-NN. {content['cpu_minutes_over_cores']} minutes of "
          f"{cores} cores ({content['this_call_minutes']} on the clock in this call)")  # fmt: skip
    print("\n".join([*table(rows), *content["goals"], *content["int8"]]))
    target = Path(__file__).parent / "results" / f"learning-{data}.json"
    target.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
