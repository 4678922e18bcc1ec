"""Which first stage? Rivals of NT-Xent and the pixel teacher, trained for as long on the same folds of patients.

`python -m benchmarks.learning.first_stages --source FOLDER [--epochs 8] [--work results]` trains `small-contrast` for a
few epochs, each rival on the same pairs for as many, and the pixel teacher for the same processor time, on every fold
of patients; scores all by the mean of their patch tokens, random weights, pixels and HOG beside them; and tests each
against NT-Xent over all patients. Every stage resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.learning.conditions import OWN, Condition
from benchmarks.learning.pooled import lines_of, pooled_differences
from benchmarks.learning.rivals import LOSSES
from benchmarks.learning.scores import TEACHER, Scored, read_rows, table
from benchmarks.learning.work import BASELINES, Work
from benchmarks.machine import describe

NT_XENT = "NT-Xent"
PROGRAMME = (sys.executable, "-m", "benchmarks.learning.rivals")
SLOWER = 2.75
"""An epoch of pairs takes as long as so many epochs of the pixel teacher (23.1 and 8.4 s of a core, measured)."""


def stages(epochs: int) -> list[Condition]:
    """Return what is compared; the first is the product's."""
    few = ("train.warmup_epochs=1", "train.knn_every=0")
    sets = (f"train.epochs={epochs}", *few)
    return [
        Condition(NT_XENT, OWN, "small-contrast", sets),
        *(Condition(name, OWN, "small-contrast", sets, programme=(*PROGRAMME, name)) for name in LOSSES),
        Condition(TEACHER, OWN, "small-teacher", (f"train.epochs={round(SLOWER * epochs)}", *few)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--source", required=True, help="folder of real frames")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="of pairs")
    parser.add_argument("--work", type=Path, default=Path("results"))
    args = parser.parse_args()
    work = Work(args.work / "source-first-stages", args.source, args.folds, "small")
    wanted = stages(args.epochs)

    def scored(job: tuple[Condition, int]) -> list[Scored]:
        stage, fold = job
        run = work.train(stage, fold)
        beside = list(BASELINES)[:3] if stage.name == NT_XENT else []
        return work.evaluate(stage, run, fold, "", beside, "evaluate.pooling=mean")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda fold: work.build("pixels and regions", OWN, fold), range(args.folds)))
        jobs = [(stage, fold) for stage in wanted for fold in range(args.folds)]
        found = [one for part in pool.map(scored, jobs) for one in part]
    tests = {probe: pooled_differences(found, NT_XENT, probe) for probe in ("probe", "logistic")}
    rows = read_rows(found)
    print("\n".join(table(rows)))
    for probe, lines in tests.items():
        print("\n".join(["", probe, *lines_of(lines)]))
    content = {
        "machine": describe(("torch", "timm", "usjepa")), "epochs": args.epochs, "folds": args.folds,
        "times": work.times(), "conditions": {one.name: {"recipe": one.recipe, "set": one.sets} for one in wanted},
        "macro_f1": rows, "tests": tests,
    }  # fmt: skip
    target = Path(__file__).parents[1] / "results" / "learning-first-stages.json"
    target.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
