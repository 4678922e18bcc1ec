"""Images per second of a teacher, by precision and compiled or not: `python -m benchmarks.teacher [--device cuda]`.

Every contender computes the same images in the same rounds, one batch after the other; the first batches of each, which
compile and choose kernels, are not timed. The largest relative error of a latent against fp32, not compiled, is that of
`usjepa-cache audit`: the norm of the difference over that of the centred latents.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from benchmarks.machine import Goal, describe, report
from usjepa.cache.building.recheck import relative_error
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.device import choose_device, synchronise
from usjepa.cache.teacher.resolve import load_teacher

PLAIN = "fp32"


def main() -> None:
    """Measure, print and write benchmarks/results/teacher.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default=None)
    parser.add_argument("--eager", action="store_true", help="leave compiled teachers out")
    asked = parser.parse_args()
    device = choose_device(asked.device)
    precisions = ("fp32", "bf16", "bf16-pure", *(("fp16", "fp16-pure") if device.type == "cuda" else ()))
    contenders = {}
    for compute in precisions:
        for compiled in (False,) if asked.eager else (False, True):
            settings = TeacherSettings.model_validate(
                {"architecture": asked.architecture, "compute": compute, "compile": compiled}
            )
            name = f"{compute}, compiled" if compiled else compute
            contenders[name] = load_teacher(settings, asked.size, str(device))
    shape = (asked.batch, 1, asked.size, asked.size)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
    latents = {}
    for name, teacher in contenders.items():
        latents[name] = teacher(pixels).cpu().numpy()
        teacher(pixels)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(asked.rounds):
        for name, teacher in contenders.items():
            synchronise(device)
            start = time.perf_counter()
            teacher(pixels)
            synchronise(device)
            samples[name].append(asked.batch / (time.perf_counter() - start))
    errors = {name: relative_error(found, latents[PLAIN]) for name, found in latents.items()}
    for name, error in errors.items():
        print(f"  {name:20s} relative error against {PLAIN} {error:.1e}")
    goals = [Goal(f"{name} / {PLAIN}", speeds, samples[PLAIN], None) for name, speeds in samples.items()]
    told = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    note = f"{asked.architecture} at {asked.size}, batches of {asked.batch}, {device}; relative errors: {told}"
    report("teacher", "images/s", samples, describe(("torch", "timm")), note, goals)


if __name__ == "__main__":
    main()
