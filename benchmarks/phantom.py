"""Frames a second of the built-in phantom on one core: `python benchmarks/phantom.py [--size 224] [--json FILE]`.

Times whole patients in the order a build reads them, so that the maps each patient needs are paid for; then frames of
patients already known. Region finding and preprocessing are timed on the same frames.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core, also where NumPy's BLAS would take more

import cv2
import numpy as np

from usjepa.cache.frames.prepare import prepare
from usjepa.cache.frames.regions import find_region
from usjepa.cache.recipes.cache import PhantomSettings, PreprocessSettings
from usjepa.cache.sources.phantom.source import Phantom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def measure(size: int, patients: int) -> dict[str, float]:
    """Frames a second of each part."""
    phantom = Phantom(PhantomSettings(patients=patients, size=size))
    jobs = [(source.path, n) for source in phantom.patients() for n in range(source.frames)]
    phantom.frame(*jobs[0])
    start = time.perf_counter()
    frames = [phantom.frame(*job) for job in jobs]
    whole = len(jobs) / (time.perf_counter() - start)
    kept = [job for job in jobs if job[0].startswith(f"patient-{patients - 1:04d}")]
    return {
        "frames_per_second": whole,
        "frames_per_second_known_patient": rate(lambda job: phantom.frame(*job), kept * 5),
        "find_region_per_second": rate(find_region, frames),
        "prepare_per_second": rate(lambda frame: prepare(frame, PreprocessSettings()), frames),
    }


def rate(call: Callable[[Any], object], items: Iterable[Any]) -> float:
    """Calls a second, from the median."""
    times = []
    for item in items:
        start = time.perf_counter()
        call(item)
        times.append(time.perf_counter() - start)
    return 1 / float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--patients", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures = measure(args.size, args.patients)
    print(f"{args.size} x {args.size} pixels, {args.patients} patients of 20 frames, one core")
    for name, value in figures.items():
        print(f"{name:<34} {value:8.1f}")
    document = {
        "size": args.size,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "machine": platform.machine(),
        **figures,
    }
    if args.json:
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    else:
        print(json.dumps(document))


if __name__ == "__main__":
    main()
