"""Seconds of a training step: `python -m benchmarks.step [--steps 6] [--rounds 5] [--student vit_tiny_patch16_224]`.

In one process and in turns, the same student learns from latents read from the store (cached), from the same batches
already in memory (the bound), and with the teacher in the loop (online); cached also from a teacher twice as deep. A
turn is a few steps as `usjepa-train` takes them, the first wait for data included. The teacher's bare forward and the
parts of a step are timed on the same batches. Medians over the turns; the order of the contenders rotates.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.machine import describe, report
from usjepa.cache.build import build
from usjepa.cache.recipe import load_recipe
from usjepa.train.augment import augment
from usjepa.train.batches import BatchMaker, Request, TrainBatch
from usjepa.train.masks import sample_masks
from usjepa.train.model import Model, make_optimizer
from usjepa.train.objective import loss as objective_loss
from usjepa.train.plan import Plan, make_plan
from usjepa.train.ranks import Ranks
from usjepa.train.step import forward, train_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usjepa.cache.settings import Recipe

DEPTHS = (12, 24)
BOUND, SHALLOW, DEEP, ONLINE = (
    "targets in memory (bound)",
    "cached, 12-block teacher",
    "cached, 24-block teacher",
    "online, 12-block teacher",
)
BARE = "bare forward, 12-block teacher"


def recipe_of(args: argparse.Namespace, depth: int, targets: str = "cached") -> Recipe:
    return load_recipe(
        "us-jepa",
        (
            "cache.source=phantom", f"cache.phantom.patients={args.patients}", "cache.phantom.frames_per_patient=16",
            "cache.views.count=1", "cache.rows_per_shard=64", f"cache.teacher.name=depth{depth}",
            f"cache.teacher.architecture={args.teacher}", f"cache.teacher.depth={depth}", "cache.teacher.compute=fp32",
            f"train.teacher=depth{depth}", f"train.targets={targets}", f"train.student.architecture={args.student}",
            f"train.batch_size={args.batch}", "train.predictor.depth=6", "train.predictor.dim=192",
            "train.predictor.heads=6",
        ),
    )  # fmt: skip


class Contender:
    """A plan, its model, and turns of a few steps."""

    def __init__(self, plan: Plan, steps: int, in_memory: bool = False) -> None:
        self.plan, self.steps = plan, steps
        self.model = Model(plan.settings, plan.store.size, plan.targets.grid, plan.targets.dim).to(plan.device)
        self.optimizer = make_optimizer(self.model, plan.settings)
        online = plan.targets.online
        layer = None if online is not None else plan.targets.name
        self.maker = BatchMaker(
            plan.store, layer, plan.targets.grid, plan.settings.masks, plan.settings.seed, plan.device, online
        )
        self.held = [self.maker.make(request) for request in self.requests()] if in_memory else None

    def requests(self) -> list[Request]:
        order = self.plan.order
        return [Request(step, order.batch(*order.position_of(step))) for step in range(self.steps)]

    def batches(self) -> Iterator[TrainBatch]:
        if self.held is not None:
            yield from self.held
            return
        for batch, _ in self.maker.stream(self.requests()):
            yield batch

    def turn(self) -> float:
        """Seconds a step."""
        start = time.perf_counter()
        for batch in self.batches():
            train_step(self.model, self.optimizer, [batch], len(batch), self.plan, Ranks())
        _settle(self.plan.device)
        return (time.perf_counter() - start) / self.steps


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare_forward(online: Contender, batch: TrainBatch) -> float:
    """Seconds of the teacher alone on a batch."""
    assert online.plan.targets.online is not None
    return timed(lambda: online.plan.targets.online(batch.pixels_BCSS), online.plan.device)


def timed(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    _settle(device)
    return time.perf_counter() - start


def parts(of: Contender, batch: TrainBatch) -> dict[str, float]:
    """Seconds of each part of a cached step, one after the other; reading and masks run beside the rest in a run."""
    plan, model, device = of.plan, of.model, of.plan.device
    settings, rows = plan.settings, batch.rows_B
    layers = ["pixels", f"latents/{plan.targets.name}"]
    found = {"read": timed(lambda: plan.store.read(rows, layers=layers), device)}
    found["masks"] = timed(lambda: sample_masks(0, batch.step, rows, plan.targets.grid, settings.masks), device)
    pixels = batch.pixels_BCSS.float() / 255.0
    found["augment"] = timed(lambda: augment(pixels, settings.seed, batch.step, rows, settings.augment), device)
    valid = batch.context_valid_BN if batch.context_padded else None
    with torch.no_grad():
        found["student, forward"] = timed(lambda: model.student(pixels, batch.context_BN, valid), device)
        both = timed(lambda: forward(model, pixels, batch, plan), device)
    found["predictor, forward"] = both - found["student, forward"]
    predictions, targets = forward(model, pixels, batch, plan)
    usable = torch.ones(len(batch), dtype=torch.bool, device=device)
    start = time.perf_counter()
    value = objective_loss(predictions, targets, batch.targets_valid_BMP, usable, settings)
    _settle(device)
    found["loss"] = time.perf_counter() - start
    found["backward"] = timed(value.backward, device)
    found["optimizer"] = timed(of.optimizer.step, device)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=6, help="steps a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patients", type=int, default=20, help="groups of 16 phantom frames")
    parser.add_argument("--student", default="vit_tiny_patch16_224")
    parser.add_argument("--teacher", default="vit_small_patch16_224")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store.zarr")
        for depth in DEPTHS:
            build(store, recipe_of(args, depth), teacher="random")
        shallow, deep = (make_plan(store, recipe_of(args, depth), None, None) for depth in DEPTHS)
        looped = make_plan(store, recipe_of(args, DEPTHS[0], "online"), None, None)
        contenders = {
            BOUND: Contender(shallow, args.steps, in_memory=True),
            SHALLOW: Contender(shallow, args.steps),
            DEEP: Contender(deep, args.steps),
            ONLINE: Contender(looped, args.steps),
        }
        measure(contenders, args)


def measure(contenders: dict[str, Contender], args: argparse.Namespace) -> None:
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    bare: list[float] = []
    split: dict[str, list[float]] = {}
    held = contenders[BOUND]
    online = contenders[ONLINE]
    assert held.held is not None
    for contender in contenders.values():
        contender.turn()  # to warm up
    names = list(contenders)
    for number in range(args.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            samples[name].append(contenders[name].turn())
        bare += [bare_forward(online, batch) for batch in held.held]
        for name, seconds in parts(contenders[SHALLOW], held.held[number % args.steps]).items():
            split.setdefault(name, []).append(seconds)
    samples[BARE] = bare
    samples |= {f"part: {name}": values for name, values in split.items()}
    plan = held.plan
    machine = describe(("torch", "timm", "numpy", "usjepa")) | {
        "device": plan.device.type,
        "threads": torch.get_num_threads(),
    }
    median = {name: statistics.median(values) for name, values in samples.items()}
    latents = plan.store.layers[f"latents/{plan.targets.name}"]
    rate = args.batch * latents.shape[0] * latents.shape[1] * 2 / median[SHALLOW] / 1e6
    ratios = told_ratios(samples)
    note = (
        f"student {args.student}, teacher {args.teacher}, batch {args.batch}, 224 px; {rate:.0f} MB/s of fp16 latents; "
        f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB; "
        + "; ".join(ratios)
    )
    report("step", "s", samples, machine, note)


def told_ratios(samples: dict[str, list[float]]) -> list[str]:
    """Ratios of turns of the same round: what slows one down slows the other down too."""
    bound, shallow, deep, online = (samples[name] for name in (BOUND, SHALLOW, DEEP, ONLINE))
    bare = statistics.median(samples[BARE])

    def ratio(top: list[float], bottom: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(top, bottom, strict=True))

    return [
        f"cached / bound {ratio(shallow, bound):.3f}",
        f"24 / 12 blocks {ratio(deep, shallow):.3f}",
        f"online / (cached + bare forward) {ratio(online, [value + bare for value in shallow]):.3f}",
    ]


if __name__ == "__main__":
    main()
