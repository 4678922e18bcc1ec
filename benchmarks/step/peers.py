"""Compare the images per second of training steps with SALT's in stable-pretraining.

`python -m benchmarks.step.peers`, run by `make bench` in an environment of its own (benchmarks/requirements-step.txt).
Equal on both sides: the timm ViT of the student, the same as teacher, depth, width and heads of the predictor, scales
of the masks, batch, fp32, AdamW, threads, process. The peer's code is its own `SALT`: one mask for the whole batch, all
targets predicted jointly (`train.predictor.joint` here), the teacher run in every step. Ours reads pixels and latents
from the store, draws a mask per image, augments, and stops at numbers that are not finite. Turns rotate; ratios are of
turns of one round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.machine import Goal, describe, report
from benchmarks.step.__main__ import Contender, recipe_of
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.recipes.recipe import override_recipe
from usjepa.train.run.plan import make_plan

if TYPE_CHECKING:
    from usjepa.cache.recipes.recipe import Recipe

JOINT, BLOCKS = "usjepa cached, joint targets", "usjepa cached, a sequence a block"
ONLINE = "usjepa online, joint targets"
PEER, PEER_TEACHER = "stable-pretraining SALT", "stable-pretraining SALT: its teacher's forward alone"
DEPTH = 12


class Salt:
    """The peer's training step on batches in memory, normalised and with three channels as its transforms give them."""

    def __init__(self, recipe: Recipe, pixels: list[torch.Tensor]) -> None:
        from stable_pretraining.methods.salt import SALT

        train = recipe.train
        masks, predictor = train.masks, train.predictor
        self.model: Any = SALT(
            train.student.architecture,
            predictor_embed_dim=predictor.dim,
            predictor_depth=predictor.depth,
            predictor_num_heads=predictor.heads,
            num_targets=masks.target_blocks,
            context_scale=masks.context_scale,
            target_scale=masks.target_scale,
            target_aspect_ratio=masks.target_aspect,
        ).train()
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.parameters = sum(parameter.numel() for parameter in learning)
        self.optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=0.04)
        self.images = [(batch.expand(-1, 3, -1, -1).float() / 255.0 - 0.45) / 0.225 for batch in pixels]

    def turn(self) -> float:
        start = time.perf_counter()
        for images in self.images:
            self.optimizer.zero_grad(set_to_none=True)
            self.model(images).loss.backward()
            self.optimizer.step()
        return (time.perf_counter() - start) / len(self.images)

    def teacher(self) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            for images in self.images:
                self.model.teacher(images)
        return (time.perf_counter() - start) / len(self.images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=2, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patients", type=int, default=4, help="groups of 16 phantom frames")
    parser.add_argument("--student", default="vit_tiny_patch16_224")
    parser.add_argument("--store", help="folder of the store, kept and used again; none: a temporary one")
    args = parser.parse_args()
    args.teacher = args.student
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(args.store or folder) / "store.zarr")
        build(store, recipe_of(args, DEPTH), BuildRequest(teacher="random"))
        ours = {
            name: Contender(
                make_plan(store, override_recipe(recipe_of(args, DEPTH, targets), more), None, None), args.steps
            )
            for name, targets, more in (
                (JOINT, "cached", ["train.predictor.joint=true"]),
                (BLOCKS, "cached", []),
                (ONLINE, "online", ["train.predictor.joint=true"]),
            )
        }
        measure(ours, args)


def measure(ours: dict[str, Contender], args: argparse.Namespace) -> None:
    pixels = [batch.pixels_BCSS for batch in ours[BLOCKS].batches()]
    missing: dict[str, str] = {}
    contenders: dict[str, Contender | Salt] = dict(ours)
    try:
        contenders[PEER] = Salt(recipe_of(args, DEPTH), pixels)
    except ImportError as error:
        missing[PEER] = f"{type(error).__name__}: {error}"
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender.turn()  # to warm up
    names = list(contenders)
    for number in range(args.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(contenders[name].turn())
        if isinstance(peer := contenders.get(PEER), Salt):
            seconds.setdefault(PEER_TEACHER, []).append(peer.teacher())
    rates = {name: [args.batch / value for value in values] for name, values in seconds.items()}
    goals = [Goal(f"{name} / {PEER}", rates[name], rates[PEER], None) for name in ours if PEER in rates]
    sizes = {name: _parameters(contender) for name, contender in contenders.items()}
    machine = describe(("torch", "timm", "numpy", "usjepa", "stable-pretraining", "lightning", "transformers"))
    note = f"student and teacher {args.student}, batch {args.batch}, 224 px, fp32; learnt parameters {sizes}"
    report("step-peers", "images/s", rates, machine | {"threads": torch.get_num_threads()}, note, goals, missing)
    print(f"seconds per step: { {name: round(statistics.median(values), 3) for name, values in seconds.items()} }")


def _parameters(of: Contender | Salt) -> int:
    return of.parameters if isinstance(of, Salt) else sum(parameter.numel() for parameter in of.model.parameters())


if __name__ == "__main__":
    main()
