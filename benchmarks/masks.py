"""Milliseconds to draw the masks of a batch on one core: `python benchmarks/masks.py [--images 1024] [--json FILE]`.

Cases: US-JEPA's settings without regions; with the region of a sector scan; with small regions, where blocks have to be
drawn again and again; with regions in which most images can't be masked at all. Median of 50 calls after 5 to warm up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core, also where NumPy's BLAS would take more

import numpy as np

from usjepa.cache.recipes.train import MaskSettings
from usjepa.train.masks.multiblock import sample_masks


def sector(grid: int) -> np.ndarray:
    """Patches of a sector scan, apex at the top: about four fifths of the grid."""
    down, across = np.mgrid[:grid, :grid] / grid
    return (np.hypot(down, across - 0.47) < 0.96) & (np.abs(np.arctan2(across - 0.47, down + 0.14)) < 0.75)


def discs(images: int, grid: int, low: float, high: float) -> np.ndarray:
    """A disc of valid patches an image, of random place and of a radius between low and high patches."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:grid, :grid]
    centre = rng.uniform(high, grid - 1 - high, (2, images, 1, 1))
    radius = rng.uniform(low, high, (images, 1, 1))
    return np.hypot(down - centre[0], across - centre[1]) <= radius


def measure(
    settings: MaskSettings, validity: np.ndarray | None, images: int, grid: int, calls: int
) -> dict[str, float]:
    rows = np.arange(images)
    times, usable = [], []
    for step in range(calls + 5):
        start = time.perf_counter()
        masks = sample_masks(0, step, rows, (grid, grid), settings, validity)
        times.append((time.perf_counter() - start) * 1e3)
        usable.append(masks.usable_B.mean())
    timed = np.array(times[5:])
    return {
        "median_ms": float(np.median(timed)),
        "p95_ms": float(np.percentile(timed, 95)),
        "usable": float(np.mean(usable)),
        "target_patches": float(masks.targets_valid_BMP.sum(2).mean()),
        "context_patches": float(masks.context_valid_BN.sum(1).mean()),
        "valid_patches": float(grid * grid if validity is None else validity.reshape(images, -1).sum(1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--grid", type=int, default=14)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    images, grid = args.images, args.grid
    plain, regions = MaskSettings(), MaskSettings(regions=True)
    cases = {
        "plain": (plain, None),
        "sector": (regions, np.tile(sector(grid).reshape(1, -1), (images, 1))),
        "small discs": (regions, discs(images, grid, 0.21 * grid, 0.36 * grid).reshape(images, -1)),
        "hopeless": (regions, discs(images, grid, 0.07 * grid, 0.2 * grid).reshape(images, -1)),
    }
    results = {name: measure(*case, images, grid, args.calls) for name, case in cases.items()}
    print(f"{images} images on {grid}x{grid} patches, one core, median of {args.calls} calls")
    print(f"{'case':<12} {'median ms':>9} {'p95 ms':>7} {'usable':>7} {'valid':>6} {'target':>7} {'context':>8}")
    for name, r in results.items():
        print(
            f"{name:<12} {r['median_ms']:9.2f} {r['p95_ms']:7.2f} {r['usable']:7.3f} {r['valid_patches']:6.1f} "
            f"{r['target_patches']:7.2f} {r['context_patches']:8.2f}"
        )
    document = {
        "images": images,
        "grid": grid,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cases": results,
    }
    if args.json:
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    else:
        print(json.dumps(document))


if __name__ == "__main__":
    main()
