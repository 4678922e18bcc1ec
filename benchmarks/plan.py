"""Does a plan come true? `python -m benchmarks.plan [--runs 5] [--folder FOLDER]`: predicted against real builds.

Three sources: the phantom, a folder of generated PNG images, and generated HDF5 files. Each run plans, then builds in
a fresh process on the same disk; the figure is predicted seconds over real ones. A plan is right within 25 %. Whatever
else the machine does between the two counts against the plan, so run it on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import h5py
import numpy as np

from benchmarks.machine import describe

WITHIN = 0.25
SETS = {
    "phantom": [],
    "images": [],
    "hdf5": [],
}


def _frame(rng: np.random.Generator, edge: int) -> np.ndarray:
    """A fan of smoothed speckle on black."""
    down, across = np.mgrid[:edge, :edge] / edge
    fan = (np.hypot(down, across - 0.5) < 0.95) & (np.abs(across - 0.5) < 0.1 + 0.6 * down)
    speckle = cv2.GaussianBlur(rng.rayleigh(60, (edge, edge)), (0, 0), 1.5)
    return np.asarray(np.where(fan, speckle.clip(0, 255), 0), np.uint8)


def make_images(root: Path, count: int, edge: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        folder = root / f"set{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i:05d}.png"), _frame(rng, edge))


def make_hdf5(root: Path, files: int, frames: int, edge: int) -> None:
    rng = np.random.default_rng(1)
    root.mkdir(parents=True)
    for i in range(files):
        with h5py.File(root / f"{i:03d}.h5", "w") as file:
            data = np.stack([_frame(rng, edge) for _ in range(frames + 4 * (i % 3))])
            file.create_dataset("images", data=data, compression="gzip", chunks=(1, edge, edge))


def run(source: str, folder: Path, name: str) -> dict[str, float]:
    """Plan, then build; return seconds of both and their ratio."""
    common = ["--pipeline", "demo", "--teacher", "random"]
    for item in SETS[name]:
        common += ["--set", item]
    cli = [sys.executable, "-m", "usjepa.cache.cli"]
    planned = subprocess.check_output(
        [*cli, "plan", source, *common, "--target", str(folder), "--json", "--seconds", "30"], stderr=subprocess.DEVNULL
    )
    predicted = json.loads(planned)["asked"]
    start = time.perf_counter()
    subprocess.run(
        [*cli, "build", str(folder / "s"), "--source", source, *common], check=True, stderr=subprocess.DEVNULL
    )
    real = time.perf_counter() - start
    nbytes = sum(p.lstat().st_blocks * 512 for p in (folder / "s").rglob("*") if p.is_file())
    shutil.rmtree(folder / "s")
    return {
        "predicted_s": predicted["seconds"],
        "real_s": real,
        "ratio": predicted["seconds"] / real,
        "bytes_ratio": predicted["nbytes"] / nbytes,
        "rows": predicted["rows"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sources", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--folder", default=None, help="where sources and stores are written; default: temporary")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="usjepa-plan-benchmark-", dir=args.folder))
    results: dict[str, list[dict[str, float]]] = {}
    try:
        make_images(folder / "images", 900, 320)
        make_hdf5(folder / "hdf5", 24, 36, 320)
        for name in args.sources:
            source = "phantom" if name == "phantom" else str(folder / name)
            results[name] = [run(source, folder, name) for _ in range(args.runs)]
            ratios = [one["ratio"] for one in results[name]]
            right = sum(abs(ratio - 1) <= WITHIN for ratio in ratios)
            shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            real = statistics.median(one["real_s"] for one in results[name])
            print(f"{name:8s} predicted / real: {shown}; within 25 %: {right} of {len(ratios)}; a build {real:.0f} s")
    finally:
        shutil.rmtree(folder)
    target = Path(__file__).parent / "results" / "plan.json"
    document = {"within": WITHIN, "machine": describe(("numpy", "torch", "timm")), "runs": results}
    target.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
