"""Time checked reads and a model's steps, each alone and beside the other.

python -m benchmarks.gpu.beside_step [--rows 2048] [--batch 64] [--seconds 5] [--rounds 3]

A thread reads random batches of ViT-B latents from a store in the page cache, as a training's reader does, while the
main thread takes steps of a ViT (forward, backward, AdamW) on the device.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import timm
import torch

from benchmarks.machine import Goal, describe, report
from benchmarks.read.bench import make
from benchmarks.read.limits import DIM, LAYER, TOKENS
from usjepa.cache.reading.process import short_turns
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.teacher.device import choose_device, synchronise

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Measure, print and write gpu-beside-step.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    step, samples = _step(choose_device(None), asked.model, asked.batch), {}
    with tempfile.TemporaryDirectory() as folder, short_turns():
        make(Path(folder), asked.rows)
        read = _reader(open_store(Path(folder) / "store"), asked.batch)
        step()
        read()
        names = ("reads alone", "steps alone", "reads beside steps", "steps beside reads")
        samples = {name: list[float]() for name in names}
        for _ in range(asked.rounds):
            samples["reads alone"].append(_per_s(read, asked.seconds))
            samples["steps alone"].append(_per_s(step, asked.seconds))
            reads, steps = _together(read, step, asked.seconds)
            samples["reads beside steps"].append(reads)
            samples["steps beside reads"].append(steps)
    goals = [
        Goal("steps per second beside reads / alone", samples["steps beside reads"], samples["steps alone"], 0.95),
        Goal(
            "batches read beside steps / steps taken", samples["reads beside steps"], samples["steps beside reads"], 1
        ),
    ]
    note = f"batches of {asked.batch}, {TOKENS} x {DIM} fp16"
    report("gpu-beside-step", "per s", samples, describe(("torch", "timm", "usjepa")), note, goals)


def _step(device: torch.device, name: str, batch: int) -> Callable[[], None]:
    model = timm.create_model(name, num_classes=0).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    images_BCHW = torch.rand(batch, 3, 224, 224, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(images_BCHW).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        synchronise(device)

    return step


def _reader(store: Store, batch: int) -> Callable[[], None]:
    rng, name = np.random.default_rng(0), LAYER

    def read() -> None:
        store.read(rng.choice(len(store), batch, replace=False), layers=(name,))

    return read


def _per_s(do: Callable[[], None], seconds: float, stop: Callable[[], bool] = lambda: False) -> float:
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds and not stop():
        do()
        done += 1
    return done / (time.perf_counter() - start)


def _together(read: Callable[[], None], step: Callable[[], None], seconds: float) -> tuple[float, float]:
    ended, reads = threading.Event(), list[float]()
    thread = threading.Thread(target=lambda: reads.append(_per_s(read, float("inf"), ended.is_set)))
    thread.start()
    steps = _per_s(step, seconds)
    ended.set()
    thread.join()
    return reads[0], steps


if __name__ == "__main__":
    main()
