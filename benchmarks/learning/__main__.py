"""Does it learn? `make results`: students against their teacher and everything simpler, three training seeds each.

`python -m benchmarks.learning [--source FOLDER] [--recipe demo] [--first contrast] [--seeds 3] [--work results]`
builds the stores, trains the first stage, builds its latents, trains each condition from each seed, probes every
encoder on the groups of patients that no training saw, and prints a table. A condition differs from the recipe by the
one setting that its row names; rows of further poolings score encoders once more, by the plain mean of their patch
tokens or by those of the frame's quarters. The pixel-only encoder gets the epochs of teacher and student together.
With `--first contrast` the teacher has learnt to tell images apart, and students of it, of the pixel teacher and of
both are compared. With `--first depths` students of single blocks of the pixel teacher and of all of them are compared.

On the phantom all students learn from the teacher of seed 0. A folder of real frames is dealt into as many folds of
patients as there are seeds, or as --folds says (see `folds.py`): each fold trains a teacher of its own on the patients
of the others, and each of its seeds a student, so that no training saw the patients that it is tested on.

Every stage resumes: a second call does what is left. Of every command the processor's and the clock's time are kept:
processor minutes over the number of cores is what an idle machine would need.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.learning.conditions import FIRSTS, conditions
from benchmarks.learning.pooled import lines_of, pooled_differences
from benchmarks.learning.scores import (
    CONTRAST,
    INT8,
    STUDENT,
    TEACHER,
    differences,
    int8_told,
    read_rows,
    table,
    verdicts,
)
from benchmarks.learning.work import BASELINES, Work
from benchmarks.machine import describe
from usjepa.cache.recipes.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--source", help="folder of real frames; none: the phantom")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds; with --source in turns one of each fold")
    parser.add_argument("--folds", type=int, help="of patients, with --source; none: as many as seeds")
    parser.add_argument("--phantom", type=int, help="seed of another phantom than that of `make results`")
    parser.add_argument("--recipe", default="demo", help="of students; their teacher's has -teacher behind its name")
    parser.add_argument("--first", choices=FIRSTS, default="pixels", help="what the students' teacher has learnt by")
    parser.add_argument("--work", type=Path, default=Path("results"))
    parser.add_argument("--only", nargs="*", help="names of conditions; none: all")
    args = parser.parse_args()
    started = time.monotonic()
    data = "source" if args.source else "phantom"
    another = () if args.phantom is None else (str(args.phantom),)
    named = "-".join([data, *another, *([args.recipe] if args.recipe != "demo" else [])])
    which = named if args.first == "pixels" else f"{named}-{args.first}"
    work = Work(args.work / which, args.source, args.folds or args.seeds, args.recipe)
    work.sets += tuple(f"cache.phantom.seed={seed}" for seed in another)
    wanted = [one for one in conditions(args.recipe, args.first) if not args.only or one.name in (STUDENT, *args.only)]
    # The student's seeds first: what was cut short still answers the first question.
    jobs = [
        (one, seed)
        for one in wanted
        for seed in range(len(work.sources) if one.name in (TEACHER, CONTRAST) else args.seeds)
    ]
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        work.stores(pool, wanted)
        scored = [one for part in pool.map(lambda job: work.score(*job), jobs) for one in part]
    rows, tests = read_rows(scored), pooled_differences(scored, STUDENT)
    times = work.times()
    compared = [one.name for one in wanted] + (list(BASELINES.values()) if args.source else [])
    content: dict[str, Any] = {
        "machine": describe(("torch", "timm", "usjepa")),
        "this_call_minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_minutes_over_cores": round(sum(part["cpu_s"] for part in times.values()) / 60 / cores, 1),
        "times": times,
        "recipes": {
            name: load_recipe(name).model_dump(mode="json")
            for name in dict.fromkeys((args.recipe, *(one.recipe for one in wanted)))
        },
        "store": list(work.sets),
        "conditions": {one.name: {"store": one.store, "recipe": one.recipe, "set": one.sets} for one in wanted},
        "goals": verdicts(rows, "phantom") if data == "phantom" else [],
        "int8": int8_told(rows) if INT8 in rows else [],
        "macro_f1": rows,
        "folds": len(work.sources),
        "minus_student": differences(rows, compared),
        "tests": tests,
    }
    taken = f"{content['cpu_minutes_over_cores']} minutes of {cores} cores"
    print(f"macro F1, %, mean ± sd over {'folds' if args.source else 'training seeds'}: probe; k-NN. {taken} "
          f"({content['this_call_minutes']} on the clock in this call)")  # fmt: skip
    print("\n".join([*table(rows), *content["goals"], *content["int8"], "", *lines_of(tests)]))
    target = Path(__file__).parents[1] / "results" / f"learning-{which}.json"
    target.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
