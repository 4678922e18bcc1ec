"""Measure images per second by batch size, and which size a build would choose.

python -m benchmarks.gpu.batch_size [--architecture vit_base_patch16_224] [--size 224] [--compute bf16] [--most 1024]
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.machine import Goal, describe, report
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher import batch_size
from usjepa.cache.teacher.device import choose_device
from usjepa.cache.teacher.resolve import load_pass

_ROUNDS = 3


def main() -> None:
    """Measure, print and write gpu-batch-size.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--compute", default="bf16")
    parser.add_argument("--most", type=int, default=1024)
    asked = parser.parse_args()
    device = choose_device(None)
    settings = TeacherSettings.model_validate({"architecture": asked.architecture, "compute": asked.compute})
    run = load_pass(settings, asked.size, str(device))
    rows_per_s = batch_size._trial(run, 1, asked.size)
    chosen = batch_size._find_batch_size(rows_per_s, batch_size._free_memory, asked.most)
    samples: dict[str, list[float]] = {}
    for size in (2**power for power in range(asked.most.bit_length())):
        try:
            samples[f"batch {size}"] = [rows_per_s(size) for _ in range(_ROUNDS)]
        except torch.OutOfMemoryError:
            batch_size._free_memory()
            break
    best = max(samples.values(), key=max)
    goals = [Goal(f"images per second, batch {chosen} (chosen) / best size", samples[f"batch {chosen}"], best, 0.9)]
    report("gpu-batch-size", "images/s", samples, describe(("torch", "timm", "usjepa")), asked.compute, goals)


if __name__ == "__main__":
    main()
