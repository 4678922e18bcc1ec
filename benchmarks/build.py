"""A build beside its own slowest part: from stored pixels the bare teacher forward, from sources what the cores can do.

    python -m benchmarks.build [--rows 96] [--rounds 5] [--architecture vit_base_patch16_224]

From stored pixels: the time of `build --teacher` on a store that holds its pixels (reading, teacher, fp16, hashing,
writing, committing; loading the model left out) against the same forward passes on the same batches alone. From
sources (the phantom): frames a second against what the cores could do if none ever waited, that is the processor time
that the build took, all its processes together, over the cores.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.machine import Goal, describe, report
from usjepa.cache import build as building
from usjepa.cache import pipeline
from usjepa.cache.build import build
from usjepa.cache.recipe import load_recipe
from usjepa.cache.settings import Recipe, TeacherSettings
from usjepa.cache.store import open_store
from usjepa.cache.teacher import load_teacher

FILL, BARE = "build from stored pixels", "bare teacher forward"
WHOLE, CORES = "build from sources", "processor time / cores"


def recipe(rows: int, architecture: str) -> Recipe:
    base = load_recipe("demo")
    patients = {"patients": max(1, rows // 4), "frames_per_patient": 4, "size": 224}
    phantom = base.cache.phantom.model_copy(update=patients)
    teacher = TeacherSettings(name="bench", architecture=architecture, batch_size=8)
    views = base.cache.views.model_copy(update={"count": 1})
    update = {"phantom": phantom, "teacher": teacher, "image_size": 224, "rows_per_shard": 8, "views": views}
    return base.model_copy(update={"cache": base.cache.model_copy(update=update)})


class Timed:
    """Notes how long the shards of a build took, without loading the model and sealing."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self._real = pipeline.make_shards

    def __call__(self, *args: object) -> None:
        start, before = time.perf_counter(), processor_s()
        self._real(*args)  # type: ignore[arg-type]
        self.wall = time.perf_counter() - start
        self.cpu = processor_s() - before


def processor_s() -> float:
    """Return seconds of processor time of this process and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def bare_forward(store: Path, settings: TeacherSettings) -> float:
    """Return seconds of the forward passes alone, over the same batches, the first one cold as in a build."""
    teacher = load_teacher(settings, 224)
    opened = open_store(store)
    pixels = torch.from_numpy(opened.read(opened.rows, layers=["pixels"]).pixels)
    start = time.perf_counter()
    for at in range(0, len(pixels), settings.batch_size):
        teacher(pixels[at : at + settings.batch_size])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="vit_base_patch16_224")
    args = parser.parse_args()
    wanted = recipe(args.rows, args.architecture)
    assert wanted.cache.teacher is not None
    samples: dict[str, list[float]] = {FILL: [], BARE: [], WHOLE: [], CORES: []}
    with tempfile.TemporaryDirectory() as folder:
        pixels, store = Path(folder) / "pixels", Path(folder) / "store"
        build(str(pixels), wanted, source="phantom")
        rows = len(open_store(pixels))
        for _ in range(args.rounds):
            timed = building.make_shards = Timed()
            shutil.copytree(pixels, store)
            build(str(store), wanted, teacher="random")
            samples[FILL].append(rows / timed.wall)
            samples[BARE].append(rows / bare_forward(pixels, wanted.cache.teacher))
            shutil.rmtree(store)
            build(str(store), wanted, source="phantom", teacher="random")
            samples[WHOLE].append(rows / timed.wall)
            samples[CORES].append(rows / timed.cpu * len(os.sched_getaffinity(0)))
            shutil.rmtree(store)
    goals = [
        Goal(f"{FILL} / {BARE}", samples[FILL], samples[BARE], 0.97),
        Goal(f"{WHOLE} / {CORES}", samples[WHOLE], samples[CORES], 0.95),
    ]
    threads = torch.get_num_threads()
    note = f"{rows} rows of the phantom at 224, {args.architecture}, batches of 8, {threads} torch threads"
    report("build", "rows/s", samples, describe(("torch", "timm", "numpy")), note, goals)


if __name__ == "__main__":
    main()
