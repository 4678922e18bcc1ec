"""Does it learn? `make results`: students against their teacher and everything simpler, three training seeds each.

`python -m benchmarks.learning [--source FOLDER] [--recipe demo] [--seeds 3] [--work results]`: builds the stores,
trains the pixel teacher, builds its latents (fp16 and int8), trains each condition from each seed, probes every encoder
on the groups of patients that no training saw, and prints a table. A condition differs from the recipe by the one
setting that its row names; rows of mean pooling score encoders once more, by the plain mean of their patch tokens. The
pixel-only encoder gets the epochs of teacher and student together.

On the phantom all students learn from the teacher of seed 0. A folder of real frames is dealt into as many folds of
patients as there are seeds (see `folds.py`): each seed trains a teacher and students of its own on the patients of the
other folds, so that every patient is tested on once and no training saw those that it is tested on.

Every stage resumes: a second call does what is left. Of every command the processor's and the clock's time are kept:
processor minutes over the number of cores is what an idle machine would need.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning.folds import fold_manifests
from benchmarks.learning.scores import (
    INT8,
    MEAN,
    PIXEL_ONLY,
    STUDENT,
    TEACHER,
    Rows,
    differences,
    int8_told,
    joined,
    scores_of,
    table,
    verdicts,
)
from benchmarks.machine import describe
from usjepa.cache.recipes.recipe import load_recipe

BIN = Path(sys.executable).parent
DATA = {
    # Another phantom than those that were looked at while the recipe was chosen (seeds 0 to 3; docs/results.md).
    "phantom": ("cache.phantom.patients=200", "cache.phantom.seed=4"),
    "source": (),
}
ALSO_MEAN = (STUDENT, TEACHER, PIXEL_ONLY)
"""Scored by mean pooling as well: these on the phantom, whose minutes are few; on real frames all."""
OWN, FOUR = "own", "k4"
"""Names of stores: of as many views as the recipe says, and of four."""
BASELINES = {"random": "random weights", "pixels": "32x32 pixels", "hog": "HOG"}


@dataclass(frozen=True)
class Condition:
    """One row of the table."""

    name: str
    store: str
    recipe: str
    sets: tuple[str, ...] = ()


def conditions(recipe: str = "demo") -> list[Condition]:
    """Return what is compared under a recipe of students, whose teacher's is called the same with `-teacher`."""
    student, first = load_recipe(recipe).train, f"{recipe}-teacher"
    both = student.epochs + load_recipe(first).train.epochs
    regions = "masks over the whole frame" if student.masks.regions else "masks inside the region"
    latents = f"train.teacher={teacher_of(recipe)}"
    return [
        Condition(STUDENT, OWN, recipe, (latents,)),
        Condition(TEACHER, OWN, first),
        Condition(PIXEL_ONLY, OWN, first, (f"train.epochs={both}",)),
        Condition(regions, OWN, recipe, (latents, f"train.masks.regions={str(not student.masks.regions).lower()}")),
        Condition(INT8, OWN, recipe, (f"{latents}-int8",)),
        Condition("4 views", FOUR, recipe, (latents,)),
        Condition("targets as they are", OWN, recipe, (latents, "train.target_norm=none")),
        Condition("targets standardised", OWN, recipe, (latents, "train.target_norm=standardised")),
    ]


def teacher_of(recipe: str) -> str:
    """Return the name of a recipe's latents."""
    teacher = load_recipe(recipe).cache.teacher
    assert teacher is not None
    return teacher.name


class Work:
    """Commands in a folder, at most as many at once as there are cores, a thread each; what they took is kept."""

    def __init__(self, folder: Path, source: str | None, folds: int = 1, recipe: str = "demo") -> None:
        self.folder, self.recipe = folder, recipe
        self.sets = DATA["source" if source else "phantom"]
        self.sources = fold_manifests(source, folder / "frames", folds) if source else [None]
        """A source a fold; None: the phantom."""
        folder.mkdir(parents=True, exist_ok=True)

    def fold_of(self, seed: int) -> int:
        """Return the fold that a training seed works on, which is the seed of its teacher as well."""
        return seed % len(self.sources)

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

    def store(self, name: str, fold: int) -> str:
        """Return a store's folder."""
        return self.path(f"{name}-{fold}.zarr")

    def build(self, part: str, store: str, fold: int, *more: str, sets: tuple[str, ...] = ()) -> None:
        found = self.sources[fold]
        source = ("--source", found) if found else ()
        self.call(
            part, "usjepa-cache", "build", self.store(store, fold), "--pipeline", self.recipe, *source, *more,
            sets=(*self.sets, *sets),
        )  # fmt: skip

    def stores(self, pool: ThreadPoolExecutor, wanted: list[Condition]) -> None:
        """Pixels, then the teacher that learns from them, then its latents as conditions want them; of every fold."""
        # A thread a fold, which only waits for the pool's: the pool has as many as there are cores.
        with ThreadPoolExecutor(len(self.sources)) as waiting:
            list(waiting.map(lambda fold: self._stores(pool, wanted, fold), range(len(self.sources))))

    def _stores(self, pool: ThreadPoolExecutor, wanted: list[Condition], fold: int) -> None:
        sets = {OWN: (), FOUR: ("cache.views.count=4",)}
        names = [name for name in sets if name == OWN or any(one.store == name for one in wanted)]
        built = {name: pool.submit(self.build, "pixels and regions", name, fold, sets=sets[name]) for name in names}
        built[OWN].result()
        first = Condition(TEACHER, OWN, f"{self.recipe}-teacher")
        pool.submit(self.train, first, fold).result()
        teacher = ("--teacher", self.run_of(TEACHER, fold))
        for name in names:
            built[name].result()
            built[name] = pool.submit(self.build, "latents", name, fold, *teacher, sets=sets[name])
        built[OWN].result()
        if any(one.name == INT8 for one in wanted):
            coarse = (f"cache.teacher.name={teacher_of(self.recipe)}-int8", "cache.precision=int8")
            pool.submit(self.build, "latents", OWN, fold, *teacher, sets=coarse).result()
        for future in built.values():
            future.result()

    def run_of(self, name: str, seed: int) -> str:
        return self.path(f"run-{name} {seed}".replace(",", "").replace(" ", "-"))

    def train(self, condition: Condition, seed: int) -> str:
        """Train; returns the run's folder."""
        run = self.run_of(condition.name, seed)
        self.call(
            f"train: {condition.name}", "usjepa-train", self.store(condition.store, self.fold_of(seed)), run,
            "--pipeline", condition.recipe, sets=(*condition.sets, f"train.seed={seed}"),
        )  # fmt: skip
        return run

    def score(self, condition: Condition, seed: int) -> Rows:
        """Train and evaluate; returns the scores of the encoder and, beside students, of the baselines.

        Random weights are drawn anew beside every seed of the student; pixels and HOG have nothing to draw and are
        scored once a fold.
        """
        run, fold = self.train(condition, seed), self.fold_of(seed)
        beside = ["random"] if condition.name == STUDENT else []
        if beside and seed == fold:
            beside += ["pixels", "hog"]
        draw = f"evaluate.random_seed={seed}"
        document = self.evaluate(run, fold, "report-", beside, draw)
        rows: Rows = {condition.name: [scores_of(document, "student")]}
        rows |= {BASELINES[encoder]: [scores_of(document, encoder)] for encoder in beside}
        if condition.name in ALSO_MEAN or self.sources[fold]:
            mean = self.evaluate(run, fold, "mean-", beside[:1], draw, "evaluate.pooling=mean")
            rows[condition.name + MEAN] = [scores_of(mean, "student")]
            rows |= {BASELINES[encoder] + MEAN: [scores_of(mean, encoder)] for encoder in beside[:1]}
        return rows

    def evaluate(self, run: str, fold: int, prefix: str, baselines: list[str], *sets: str) -> dict[str, Any]:
        """Return a report's document. Every encoder is probed on the same task: view 0 of test patients' frames."""
        report = Path(run).with_name(Path(run).name.replace("run-", prefix, 1))
        named = f"evaluate.baselines=[{','.join(baselines)}]"
        short = ("evaluate.corruptions=[]", "evaluate.few_shot=[]", "evaluate.bootstrap=2000")
        self.call(
            "evaluate", "usjepa-evaluate", run, "--task", self.store(OWN, fold), "--pipeline", self.recipe, "-o",
            str(report), sets=(*short, named, *sets),
        )  # fmt: skip
        document: dict[str, Any] = json.loads((report / "scores.json").read_text())
        return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--source", help="folder of real frames; none: the phantom")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds; with --source folds of patients as well")
    parser.add_argument("--recipe", default="demo", help="of students; their teacher's has -teacher behind its name")
    parser.add_argument("--work", type=Path, default=Path("results"))
    parser.add_argument("--only", nargs="*", help="names of conditions; none: all")
    args = parser.parse_args()
    started = time.monotonic()
    data = "source" if args.source else "phantom"
    which = data if args.recipe == "demo" else f"{data}-{args.recipe}"
    work = Work(args.work / which, args.source, args.seeds, args.recipe)
    wanted = [one for one in conditions(args.recipe) if not args.only or one.name in (STUDENT, *args.only)]
    # The student's seeds first: what was cut short still answers the first question.
    jobs = [(one, seed) for one in wanted for seed in range(len(work.sources) if one.name == TEACHER else args.seeds)]
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        work.stores(pool, wanted)
        rows = joined(pool.map(lambda job: work.score(*job), jobs))
    times = work.times()
    compared = [one.name for one in wanted] + (list(BASELINES.values()) if args.source else [])
    content: dict[str, Any] = {
        "machine": describe(("torch", "timm", "usjepa")),
        "this_call_minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_minutes_over_cores": round(sum(part["cpu_s"] for part in times.values()) / 60 / cores, 1),
        "times": times,
        "recipes": {
            name: load_recipe(name).model_dump(mode="json") for name in (args.recipe, f"{args.recipe}-teacher")
        },
        "store": list(work.sets),
        "conditions": {one.name: {"store": one.store, "recipe": one.recipe, "set": one.sets} for one in wanted},
        "goals": verdicts(rows, "phantom") if data == "phantom" else [],
        "int8": int8_told(rows) if INT8 in rows else [],
        "macro_f1": rows,
        "folds": len(work.sources),
        "minus_student": differences(rows, compared),
    }
    taken = f"{content['cpu_minutes_over_cores']} minutes of {cores} cores"
    print(f"macro F1, %, mean ± sd over {'folds' if args.source else 'training seeds'}: probe; k-NN. {taken} "
          f"({content['this_call_minutes']} on the clock in this call)")  # fmt: skip
    print("\n".join([*table(rows), *content["goals"], *content["int8"]]))
    target = Path(__file__).parents[1] / "results" / f"learning-{which}.json"
    target.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
