"""Run the commands of `make results` in a folder: stores, first stages, trainings and reports, each resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.learning.conditions import FOUR, OWN, Condition, First
from benchmarks.learning.folds import fold_manifests
from benchmarks.learning.scores import CONTRAST, GRID, MEAN, PIXEL_ONLY, STUDENT, TEACHER, Scored

BIN = Path(sys.executable).parent
DATA = {
    # Another phantom than those that were looked at while the recipe was chosen (seeds 0 to 3; docs/results.md).
    "phantom": ("cache.phantom.patients=200", "cache.phantom.seed=4"),
    "source": (),
}
ALSO_MEAN = (STUDENT, TEACHER, CONTRAST, PIXEL_ONLY)
"""Scored by further poolings as well: these on the phantom, whose minutes are few; on real frames all."""
POOLINGS = {MEAN: "mean", GRID: "grid2"}
BASELINES = {"random": "random weights", "pixels": "32x32 pixels", "hog": "HOG", "hog-pooled": "HOG, pooled"}


class Work:
    """Commands in a folder, at most as many at once as there are cores, a thread each; what they took is kept."""

    def __init__(
        self, folder: Path, source: str | None, folds: int = 1, recipe: str = "demo", recipes: str | None = None
    ) -> None:
        """Prepare a folder; `folds` 0 takes a source as it is, `recipes` names a file in place of the built-in one."""
        self.folder, self.recipe = folder, recipe
        self.sets = DATA["source" if source or recipes else "phantom"]
        self._recipes = ("--recipes", recipes) if recipes else ()
        self.sources = fold_manifests(source, folder / "frames", folds) if source and folds else [source]
        """A source a fold; None: the phantom."""
        folder.mkdir(parents=True, exist_ok=True)

    def fold_of(self, seed: int) -> int:
        """Return the fold that a training seed works on, which is the seed of its teacher as well."""
        return seed % len(self.sources)

    def call(self, part: str, command: str, *arguments: str, sets: tuple[str, ...] = ()) -> None:
        """Run a command and add its time to `times.jsonl`; SystemExit where it fails."""
        flags = [flag for value in sets for flag in ("--set", value)]
        started = time.monotonic()
        code, cpu_s = self.run(command, [*arguments, *self._recipes, *flags])
        line = {"part": part, "cpu_s": cpu_s, "wall_s": time.monotonic() - started}
        with (self.folder / "times.jsonl").open("a") as times:
            times.write(json.dumps(line) + "\n")
        if code:
            raise SystemExit(f"{command} {' '.join(arguments)} ended with {code}: see {self.log}")

    def run(self, command: str, arguments: list[str]) -> tuple[int, float]:
        """Run a command into the log; return how it exited and its processor seconds."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [str(BIN / command), *arguments],
                stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            # wait4 tells the time of this child and of its own; RUSAGE_CHILDREN would mix those that run beside it.
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_utime + usage.ru_stime

    @property
    def log(self) -> Path:
        """What commands print."""
        return self.folder / "log.txt"

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
        """Pixels, then the teachers that learn from them, then their latents as conditions want them; of every fold."""
        # A thread a fold, which only waits for the pool's: the pool has as many as there are cores.
        with ThreadPoolExecutor(len(self.sources)) as waiting:
            list(waiting.map(lambda fold: self._stores(pool, wanted, fold), range(len(self.sources))))

    def _stores(self, pool: ThreadPoolExecutor, wanted: list[Condition], fold: int) -> None:
        sets = {OWN: (), FOUR: ("cache.views.count=4",)}
        names = [name for name in sets if name == OWN or any(one.store == name for one in wanted)]
        built = {name: pool.submit(self.build, "pixels and regions", name, fold, sets=sets[name]) for name in names}
        built[OWN].result()
        # In the order of conditions, each once, and those of one run after each other.
        firsts = list(dict.fromkeys((one.store, first) for one in wanted for first in one.learns_from))
        trained = {
            row: pool.submit(self.train, Condition(row, OWN, recipe), fold)
            for row, recipe in dict.fromkeys((first.row, first.recipe) for _, first in firsts)
        }
        for name in names:
            built[name].result()
        for name, first in firsts:  # one after another: two builds can't write to one store
            trained[first.row].result()
            pool.submit(self.latents, name, fold, first, sets[name]).result()
        for future in trained.values():
            future.result()

    def latents(self, store: str, fold: int, first: First, sets: tuple[str, ...] = ()) -> None:
        """Ask a first stage that was trained on a fold about its store."""
        named = (f"cache.teacher.name={first.latents}",)
        self.build("latents", store, fold, "--teacher", self.run_of(first.row, fold), sets=(*sets, *named, *first.sets))

    def run_of(self, name: str, seed: int) -> str:
        return self.path(f"run-{name} {seed}".replace(",", "").replace(" ", "-"))

    def train(self, condition: Condition, seed: int) -> str:
        """Train; returns the run's folder."""
        run = self.run_of(condition.name, seed)
        self.call(
            f"train: {condition.name}", *condition.programme, self.store(condition.store, self.fold_of(seed)), run,
            "--pipeline", condition.recipe, sets=(*condition.sets, f"train.seed={seed}"),
        )  # fmt: skip
        return run

    def score(self, condition: Condition, seed: int) -> list[Scored]:
        """Train and evaluate; see `reports`."""
        self.train(condition, seed)
        return self.reports(condition, seed)

    def reports(self, condition: Condition, seed: int) -> list[Scored]:
        """Evaluate; returns where the scores of the encoder and, beside students, of the baselines are.

        Random weights are drawn anew beside every seed of the student; pixels and HOG have nothing to draw and are
        scored once a fold.
        """
        run, fold = self.run_of(condition.name, seed), self.fold_of(seed)
        beside = ["random"] if condition.name == STUDENT else []
        once = ["pixels", "hog", *(["hog-pooled"] if self.sources[fold] else [])]
        pooled = [*beside, *(once[2:] if beside and seed == fold else [])]
        draw = f"evaluate.random_seed={seed}"
        found = self.evaluate(condition, run, seed, "", [*beside, *(once if beside and seed == fold else [])], draw)
        for suffix, pooling in POOLINGS.items():
            if condition.name in ALSO_MEAN or self.sources[fold]:
                found += self.evaluate(condition, run, seed, suffix, pooled, draw, f"evaluate.pooling={pooling}")
        return found

    def evaluate(
        self, condition: Condition, run: str, seed: int, suffix: str, baselines: list[str], *sets: str
    ) -> list[Scored]:
        """Make a report. Every encoder is probed on the same task: view 0 of test patients' frames."""
        prefix = f"{POOLINGS[suffix]}-" if suffix else "report-"
        report = Path(run).with_name(Path(run).name.replace("run-", prefix, 1))
        named = f"evaluate.baselines=[{','.join(baselines)}]"
        short = ("evaluate.corruptions=[]", "evaluate.few_shot=[]", "evaluate.bootstrap=2000")
        self.call(
            "evaluate", "usjepa-evaluate", run, "--task", self.store(OWN, self.fold_of(seed)), "--pipeline",
            self.recipe, "-o", str(report), sets=(*short, named, *sets),
        )  # fmt: skip
        rows = {condition.name: "student"} | {BASELINES[encoder]: encoder for encoder in baselines}
        return [Scored(row + suffix, seed, report, encoder) for row, encoder in rows.items()]
