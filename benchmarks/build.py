"""A build beside its own slowest part: from stored pixels the bare teacher forward, from sources what the cores can do.

    python -m benchmarks.build [--rows 96] [--rounds 5] [--architecture vit_base_patch16_224] [--free-rows 4096]
    python -m benchmarks.build --rows 8192 --rows-per-shard 512 --compute bf16 --folder /dev/shm     # on a GPU

From stored pixels: the time of `build --teacher` on a store that holds its pixels (reading, teacher, fp16, hashing,
writing, committing; loading the model left out) against the same forward passes on the same batches alone, whose
answers stay on the device. On a GPU the loop that most would write runs too: forward, float32 to the host, NumPy.
From sources (the phantom): frames a second against what the cores could do if none ever waited, that is the processor
time that the build took, all its processes together, over the cores. Without a teacher: the same build from stored
pixels whose latents are there at once, as if the device took no time, against a plain write and fsync of the bytes:
what the processor and the disk allow, however fast the GPU. And with devices that are pretended, of so many rows a
second: how much of its time such a device computes, beside reading, hashing and writing.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from benchmarks.machine import Goal, describe, report
from usjepa.cache.building import pipeline
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.recipes.recipe import Recipe, load_recipe
from usjepa.cache.teacher import computing
from usjepa.cache.teacher.computing import compute_latents
from usjepa.cache.teacher.device import synchronise
from usjepa.cache.teacher.resolve import load_teacher

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from usjepa.cache.building.shard_maker import ShardMaker
    from usjepa.cache.teacher.teacher import Pass, Teacher

Samples = dict[str, list[float]]
FILL, BARE, LOOP = "build from stored pixels", "bare teacher forward", "forward, float32 to the host, NumPy"
WHOLE, CORES = "build from sources", "processor time / cores"
FREE_ROWS_PER_SHARD, FREE_BATCH = 128, 64
RATES = (1000.0, 2000.0, 3000.0)
LAUNCH_S = 0.003
"""What asking a GPU for a ViT's forward pass takes: some hundred kernels at 5 to 10 us each."""
MAKE_SHARDS = pipeline.make_shards
FREE, PLAIN = "build, a teacher that takes no time", "plain write + fsync of its bytes"


def recipe(args: argparse.Namespace, rows: int, rows_per_shard: int, batch_size: int | None) -> Recipe:
    base = load_recipe("demo")
    patients = {"patients": max(1, rows // 4), "frames_per_patient": 4, "size": 224}
    phantom = base.cache.phantom.model_copy(update=patients)
    teacher = TeacherSettings(name="bench", architecture=args.architecture, batch_size=batch_size, compute=args.compute)
    views = base.cache.views.model_copy(update={"count": 1})
    update = {"phantom": phantom, "teacher": teacher, "image_size": 224, "views": views, "precision": args.precision}
    update["rows_per_shard"] = rows_per_shard
    return base.model_copy(update={"cache": base.cache.model_copy(update=update)})


class Timed:
    """Notes how long the shards of a build took, without loading the model and sealing."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.batch_size = 0

    def __call__(self, maker: ShardMaker, *args: Any, **named: Any) -> None:
        self.batch_size = maker.job.batch_size if maker.job is not None else 0
        start, before = time.perf_counter(), processor_s()
        MAKE_SHARDS(maker, *args, **named)
        self.wall = time.perf_counter() - start
        self.cpu = processor_s() - before


def processor_s() -> float:
    """Return seconds of processor time of this process and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed_build(store: str, recipe: Recipe, request: BuildRequest) -> Timed:
    vars(pipeline)["make_shards"] = timed = Timed()
    build(store, recipe, request)
    return timed


def forwards(teacher: Teacher, pixels: np.ndarray, batch: int, rows_per_shard: int) -> None:
    """Nothing but the forward passes, over the batches of the build; images lie in page-locked memory."""
    images = torch.from_numpy(pixels)
    images = images.pin_memory() if teacher.device.type == "cuda" else images
    for shard in range(0, len(images), rows_per_shard):
        for at in range(shard, min(shard + rows_per_shard, len(images)), batch):
            teacher(images[at : min(at + batch, shard + rows_per_shard)])
    synchronise(teacher.device)


class Pretended(computing._Batch):
    """A batch on a device that is pretended: it takes `RATE` images a second, one batch after the other, and asking it
    keeps the interpreter busy for as long as launching a ViT's kernels does. Its latents cost the processor nothing."""

    rate: ClassVar[float] = 0.0
    """Images a second; 0: any number at once."""
    free_at: ClassVar[float] = 0.0
    """When the device has computed all that it was asked for."""
    seen: ClassVar[set[int]] = set()
    """Addresses of memory that holds numbers, not what was there before."""

    def __init__(
        self, run: Pass, wanted: object, pixels: np.ndarray, exists: np.ndarray, first_row: int, quantisers: object
    ) -> None:
        until = time.perf_counter() + (LAUNCH_S if self.rate else 0.0)
        while time.perf_counter() < until:
            pass
        took = len(pixels) / self.rate if self.rate else 0.0
        self.done_at = Pretended.free_at = max(Pretended.free_at, time.perf_counter()) + took

    def copy_to(self, arrays: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> None:
        for into in (array for pair in arrays for array in pair if array is not None):
            if into.ctypes.data not in self.seen:
                self.seen.add(into.ctypes.data)
                into.fill(0)

    def receive(self) -> None:
        time.sleep(max(0.0, self.done_at - time.perf_counter()))


def build_pretended(store: Path, pixels: Path, wanted: Recipe, rate: float) -> float:
    """Return seconds of a build from stored pixels by a pretended device."""
    Pretended.rate, Pretended.free_at = rate, 0.0
    Pretended.seen.clear()
    real, computing._Batch = computing._Batch, Pretended  # type: ignore[misc]
    shutil.copytree(pixels, store)
    try:
        return timed_build(str(store), wanted, BuildRequest(teacher="random")).wall
    finally:
        computing._Batch = real  # type: ignore[misc]


def write_plain(folder: Path, store: Path) -> float:
    """Return seconds of writing a store's latents again, a file each, and an fsync of each."""
    files = [path.read_bytes() for path in sorted((store / "latents").rglob("c.*"))]
    folder.mkdir()
    start = time.perf_counter()
    for number, data in enumerate(files):
        with (folder / str(number)).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return time.perf_counter() - start


def with_teacher(folder: Path, args: argparse.Namespace) -> tuple[Samples, int]:
    """Rows a second of builds with a real teacher and of what limits them; the batch size."""
    wanted = recipe(args, args.rows, args.rows_per_shard, None if torch.cuda.is_available() else 8)
    pixels, store = folder / "pixels", folder / "store"
    build(str(pixels), wanted, BuildRequest(source="phantom"))
    opened = open_store(pixels)
    images, rows = opened.read(opened.rows, layers=["pixels"]).pixels, len(opened)
    samples: Samples = {FILL: [], BARE: [], WHOLE: [], CORES: []}
    for _ in range(args.rounds):
        shutil.copytree(pixels, store)
        timed = timed_build(str(store), wanted, BuildRequest(teacher="random"))
        batch = timed.batch_size
        samples[FILL].append(rows / timed.wall)
        # A teacher of its own: the first pass is cold here too, as in a build.
        assert wanted.cache.teacher is not None
        teacher, start = load_teacher(wanted.cache.teacher, 224), time.perf_counter()
        forwards(teacher, images, batch, args.rows_per_shard)
        samples[BARE].append(rows / (time.perf_counter() - start))
        if teacher.device.type == "cuda":
            start = time.perf_counter()
            compute_latents(teacher, images, opened.rows, batch)
            samples.setdefault(LOOP, []).append(rows / (time.perf_counter() - start))
        del teacher
        shutil.rmtree(store)
        timed = timed_build(str(store), wanted, BuildRequest(source="phantom", teacher="random"))
        samples[WHOLE].append(rows / timed.wall)
        samples[CORES].append(rows / timed.cpu * len(os.sched_getaffinity(0)))
        shutil.rmtree(store)
    return samples, batch


def without_teacher(folder: Path, args: argparse.Namespace) -> Samples:
    """Rows a second of what processor and disk allow."""
    wanted = recipe(args, args.free_rows, FREE_ROWS_PER_SHARD, FREE_BATCH)
    pixels, store, plain = folder / "free", folder / "store", folder / "plain"
    build(str(pixels), wanted, BuildRequest(source="phantom"))
    rows = len(open_store(pixels))
    samples: Samples = {FREE: [], PLAIN: [], **{pretended(rate): [] for rate in RATES}}
    for number in range(args.rounds + 1):
        found = {PLAIN: 0.0}
        for rate in (*RATES, 0.0):
            shutil.rmtree(store, ignore_errors=True)
            found[pretended(rate)] = rows / build_pretended(store, pixels, wanted, rate)
        found[PLAIN] = rows / write_plain(plain, store)
        for path in (store, plain):
            shutil.rmtree(path)
        if number:  # the first round's memory is new to the process
            for who, value in found.items():
                samples[who].append(value)
    return samples


def pretended(rate: float) -> str:
    return f"build, a pretended device of {rate:,.0f} rows/s" if rate else FREE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rows-per-shard", type=int, default=8)
    parser.add_argument("--free-rows", type=int, default=4096, help="0 leaves the builds without a teacher out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="vit_base_patch16_224")
    parser.add_argument("--compute", default="fp32")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--folder", type=Path, help="where stores are written; its disk is part of what is measured")
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        samples, batch = with_teacher(Path(folder), args)
        if args.free_rows:
            samples |= without_teacher(Path(folder), args)
    goals = [
        Goal(f"{FILL} / {BARE}", samples[FILL], samples[BARE], 0.95 if on_gpu else 0.97),
        Goal(f"{WHOLE} / {CORES}", samples[WHOLE], samples[CORES], 0.95),
    ]
    if LOOP in samples:
        goals.append(Goal(f"{FILL} / {LOOP}", samples[FILL], samples[LOOP], None))
    if FREE in samples:
        goals.append(Goal(f"{FREE} / {PLAIN}", samples[FREE], samples[PLAIN], None))
        for rate in RATES:
            mine = samples[pretended(rate)]
            goals.append(Goal(f"{pretended(rate)} / that", mine, [rate] * len(mine), 0.95))
    device = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} torch threads"
    note = (
        f"{args.rows} rows of the phantom at 224, {args.architecture}, {args.compute}, stored as {args.precision}, "
        f"batches of {batch}, {device}"
    )
    report("build-gpu" if on_gpu else "build", "rows/s", samples, describe(("torch", "timm", "numpy")), note, goals)


if __name__ == "__main__":
    main()
