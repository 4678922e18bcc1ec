"""Time a training step with cached targets, targets in memory and a teacher in the loop.

`python -m benchmarks.step [--steps 2] [--rounds 5] [--student vit_tiny_patch16_224]`

In one process and in turns, the same student learns from latents read from the store (cached), from the same batches
already in memory (the bound), and with the teacher in the loop (online); cached also from a teacher twice as deep. A
turn is a few steps as `usjepa-train` takes them, including the first wait for data. The teacher's bare forward pass and
the parts of a step are timed on the same batches. The order of the contenders rotates; ratios are of turns of one
round, and the ratio of neighbouring turns of one contender is reported as noise.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.machine import Goal, describe, report
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.train.data.batches import BatchMaker, BatchRequest, TrainBatch
from usjepa.train.masks.multiblock import sample_masks
from usjepa.train.model.augment import augment
from usjepa.train.model.jepa import Jepa, make_optimizer
from usjepa.train.objective.loss import loss as objective_loss
from usjepa.train.run.computing import Learner
from usjepa.train.run.plan import TrainingPlan, make_plan
from usjepa.train.run.ranks import Ranks
from usjepa.train.run.step import forward, train_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usjepa.cache.recipes.recipe import Recipe

DEPTHS = (12, 24)
BOUND, SHALLOW, DEEP, ONLINE = (
    "targets in memory (bound)",
    "cached, 12-block teacher",
    "cached, 24-block teacher",
    "online, 12-block teacher",
)
BOTH = "cached, both teachers"
BARE = "bare forward, 12-block teacher"


def recipe_of(args: argparse.Namespace, depth: int, targets: str = "cached") -> Recipe:
    return load_recipe(
        "us-jepa",
        (
            "cache.source=phantom", f"cache.phantom.patients={args.patients}", "cache.phantom.frames_per_patient=16",
            "cache.views.count=1", "cache.rows_per_shard=64", f"cache.teacher.name=depth{depth}",
            f"cache.teacher.architecture={args.teacher}", f"cache.teacher.depth={depth}", "cache.teacher.compute=fp32",
            f"train.teacher={'null' if targets.startswith('[') else f'depth{depth}'}", f"train.targets={targets}",
            f"train.student.architecture={args.student}",
            f"train.batch_size={args.batch}", "train.predictor.depth=6", "train.predictor.dim=192",
            "train.predictor.heads=6",
        ),
    )  # fmt: skip


class Contender:
    """A plan, its model, and turns of a few steps."""

    def __init__(self, plan: TrainingPlan, steps: int, in_memory: bool = False) -> None:
        self.plan, self.steps = plan, steps
        self.model = Jepa(plan.settings, plan.store.size, plan.targets.grid, plan.targets.dim).to(plan.device)
        self.learner = Learner(self.model, make_optimizer(self.model, plan.settings), plan, Ranks())
        self.maker = BatchMaker(plan.store, plan.targets, plan.settings, plan.device)
        self.held = [self.maker.make(request) for request in self.requests()] if in_memory else None

    def requests(self) -> list[BatchRequest]:
        order = self.plan.order
        return [BatchRequest(step, order.batch(*order.position_of(step))) for step in range(self.steps)]

    def batches(self) -> Iterator[TrainBatch]:
        if self.held is not None:
            yield from self.held
            return
        for batch, _ in self.maker.stream(self.requests()):
            yield batch

    def turn(self) -> float:
        """Return the seconds per step."""
        start = time.perf_counter()
        for batch in self.batches():
            train_step(self.learner, [batch], len(batch))
        _settle(self.plan.device)
        return (time.perf_counter() - start) / self.steps

    def peak_mib(self) -> float:
        """Return the peak MiB of a turn, beyond weights and optimizer, which are there before (Linux, glibc)."""
        self.turn()
        ctypes.CDLL(None).malloc_trim(0)  # memory that earlier turns left with the C library would hide this turn's
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
        self.turn()
        return (_resident("VmHWM") - before) / 1024


def _resident(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1])


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare_forward(online: Contender, batch: TrainBatch) -> float:
    """Return the seconds of the teacher alone on a batch."""
    teacher = online.plan.targets.online
    assert teacher is not None
    return timed(lambda: teacher(batch.pixels_BCSS), online.plan.device)


def timed(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    _settle(device)
    return time.perf_counter() - start


def parts(of: Contender, batch: TrainBatch) -> dict[str, float]:
    """Return the seconds of each part of a cached step, in turn; in a run, reading and masks run beside the rest."""
    plan, model, device = of.plan, of.model, of.plan.device
    settings, rows = plan.settings, batch.rows_B
    layers = ["pixels", f"latents/{plan.targets.name}"]
    found = {"read": timed(lambda: plan.store.read(rows, layers=layers), device)}
    found["masks"] = timed(lambda: sample_masks(0, batch.step, rows, plan.targets.grid, settings.masks), device)
    pixels = batch.pixels_BCSS.float() / 255.0
    found["augment"] = timed(lambda: augment(pixels, settings.seed, batch.step, rows, settings.augment), device)
    with torch.no_grad(), _timing(model.student, found, "student, forward", device):
        both = timed(lambda: forward(model, pixels, batch, plan), device)
    found["predictor, forward"] = both - found["student, forward"]
    made = forward(model, pixels, batch, plan)
    start = time.perf_counter()
    value = objective_loss(*made, settings)
    _settle(device)
    found["loss"] = time.perf_counter() - start
    found["backward"] = timed(value.backward, device)
    found["optimizer"] = timed(of.learner.optimizer.step, device)
    return found


@contextmanager
def _timing(module: torch.nn.Module, into: dict[str, float], name: str, device: torch.device) -> Iterator[None]:
    """Add up the seconds of a module's calls: it is called once per group of images."""
    begun: list[float] = []
    into[name] = 0.0

    def end(*_: object) -> None:
        _settle(device)
        into[name] += time.perf_counter() - begun.pop()

    hooks = [
        module.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter())),
        module.register_forward_hook(end),
    ]
    yield
    for hook in hooks:
        hook.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=2, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patients", type=int, default=8, help="groups of 16 phantom frames")
    parser.add_argument("--student", default="vit_tiny_patch16_224")
    parser.add_argument("--teacher", default="vit_small_patch16_224")
    parser.add_argument("--store", help="folder of the store, kept and used again; none: a temporary one")
    parser.add_argument("--build-only", action="store_true", help="with --store: build it and stop")
    args = parser.parse_args()
    with nullcontext(args.store) if args.store else tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store.zarr")
        for depth in DEPTHS:
            build(store, recipe_of(args, depth), BuildRequest(teacher="random"))
        if args.build_only:
            return
        shallow, deep = (make_plan(store, recipe_of(args, depth), None, None) for depth in DEPTHS)
        names = "[" + ", ".join(f"depth{depth}" for depth in DEPTHS) + "]"
        together = make_plan(store, recipe_of(args, DEPTHS[0], names), None, None)
        looped = make_plan(store, recipe_of(args, DEPTHS[0], "online"), None, None)
        contenders = {
            BOUND: Contender(shallow, args.steps, in_memory=True),
            SHALLOW: Contender(shallow, args.steps),
            DEEP: Contender(deep, args.steps),
            BOTH: Contender(together, args.steps),
            ONLINE: Contender(looped, args.steps),
        }
        measure(contenders, args)


def measure(contenders: dict[str, Contender], args: argparse.Namespace) -> None:
    samples: dict[str, list[float]] = {name: [] for name in (*contenders, BARE)}
    split: dict[str, list[float]] = {}
    held, online = contenders[BOUND], contenders[ONLINE]
    assert held.held is not None
    peaks = {name: contender.peak_mib() for name, contender in contenders.items()}  # and to warm up
    names = list(contenders)
    for number in range(args.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            samples[name].append(contenders[name].turn())
        samples[BARE].append(statistics.mean(bare_forward(online, batch) for batch in held.held))
        for name, seconds in parts(contenders[SHALLOW], held.held[number % args.steps]).items():
            split.setdefault(name, []).append(seconds)
    goals = goals_of(samples)
    plan = held.plan
    machine = describe(("torch", "timm", "numpy", "usjepa")) | {
        "device": plan.device.type,
        "threads": torch.get_num_threads(),
    }
    latents = plan.store.layers[f"latents/{plan.targets.name}"]
    row = latents.shape[0] * latents.shape[1] * 2
    beside = "; ".join(f"{name}: {value}" for name, value in beside_each(samples, peaks, args.batch, row).items())
    shares = "; ".join(f"{name} {value}" for name, value in shares_of(split, samples[SHALLOW]).items())
    note = f"student {args.student}, teacher {args.teacher}, batch {args.batch}, 224 px. {beside}. Of a step: {shares}"
    report("step", "s", samples | {f"part: {name}": values for name, values in split.items()}, machine, note, goals)


def beside_each(samples: dict[str, list[float]], peaks: dict[str, float], batch: int, row: int) -> dict[str, str]:
    """Return each contender's peak memory and the rate at which it reads."""
    found = {}
    for name, peak in peaks.items():
        rate = batch * row / statistics.median(samples[name]) / 1e6 if name in (SHALLOW, DEEP) else 0.0
        found[name] = f"peak +{peak:.0f} MiB, {rate:.1f} MB/s of fp16 latents read"
    return found


def shares_of(split: dict[str, list[float]], step: list[float]) -> dict[str, str]:
    """Return each part's share of a cached step; reading and masks run beside the rest, so they need not add up."""
    whole = statistics.median(step)
    return {name: f"{100 * statistics.median(values) / whole:.1f} %" for name, values in split.items()}


def goals_of(samples: dict[str, list[float]]) -> list[Goal]:
    """Return ratios of turns of the same round: whatever slows one down slows the other down too."""
    bound, shallow, deep, online, bare = (samples[name] for name in (BOUND, SHALLOW, DEEP, ONLINE, BARE))
    both = samples[BOTH]
    summed = [a + b for a, b in zip(shallow, bare, strict=True)]
    return [
        Goal("targets in memory / cached (cached <= 1.03x)", bound, shallow, 1 / 1.03),
        Goal("(cached + bare forward) / online (within 5 %)", summed, online, 0.95),
        Goal("cached, 12-block / 24-block teacher (flat within 5 %)", shallow, deep, 0.95),
        Goal("cached, one teacher / both (two targets <= 1.1x)", shallow, both, 1 / 1.1),
        Goal("noise: a cached turn / the one before it", shallow[1:], shallow[:-1], None),
    ]


if __name__ == "__main__":
    main()
