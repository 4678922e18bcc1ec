"""Does a plan come true? Predicted against real builds: `python -m benchmarks.plan [--runs 5]`.

Three sources: the phantom, a folder of generated PNG images, and generated HDF5 clips; `--real NAME=FOLDER` adds one's
own. The teacher is a ViT-Ti of random weights, 112 pixels, as in `make demo`. Each run plans, then builds in a fresh
process on the same disk; the figure is predicted seconds over real ones, and a plan is right within 25 %. Whatever else
the machine does between the two counts against the plan, so run it on a quiet one: `--append` adds a run to what
benchmarks/results/plan.json holds, and `--folder` keeps the generated sources from one call to the next.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from benchmarks.machine import describe, earlier_results, write_results

WITHIN, MOST_PART = 0.25, 0.8
IMAGES, CLIPS, FRAMES, EDGE = 1500, 32, 44, 320
RECIPE = ["--pipeline", "demo", "--teacher", "random", "--set", "cache.max_frames_per_source=60"]
PLANNED_S = "30"


def frame(rng: np.random.Generator) -> np.ndarray:
    """A fan of smoothed speckle on black."""
    down, across = np.mgrid[:EDGE, :EDGE] / EDGE
    fan = (np.hypot(down, across - 0.5) < 0.95) & (np.abs(across - 0.5) < 0.1 + 0.6 * down)
    speckle = cv2.GaussianBlur(rng.rayleigh(60, (EDGE, EDGE)), (0, 0), 1.5)
    return np.asarray(np.where(fan, speckle.clip(0, 255), 0), np.uint8)


def make_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        folder = root / f"set{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i:05d}.png"), frame(rng))


def make_hdf5(root: Path) -> None:
    rng = np.random.default_rng(1)
    root.mkdir(parents=True)
    for i in range(CLIPS):
        with h5py.File(root / f"{i:03d}.h5", "w") as file:
            data = np.stack([frame(rng) for _ in range(FRAMES + 4 * (i % 3))])
            file.create_dataset("images", data=data, compression="gzip", chunks=(1, EDGE, EDGE))


GENERATED = {"images": make_images, "hdf5": make_hdf5}


def run(source: str, folder: Path) -> dict[str, Any]:
    """Plan, then build; return seconds of both, their ratio, and what each said of the parts."""
    cli, store = [sys.executable, "-m", "usjepa.cache.cli"], folder / "s"
    command = [*cli, "plan", source, *RECIPE, "--target", str(folder), "--json", "--seconds", PLANNED_S]
    start = time.perf_counter()
    planned = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    planning, start = time.perf_counter() - start, time.perf_counter()
    command = [*cli, "build", str(store), "--source", source, *RECIPE]
    built = subprocess.run(command, check=True, capture_output=True, text=True)
    real = time.perf_counter() - start
    nbytes = sum(p.lstat().st_blocks * 512 for p in store.rglob("*") if p.is_file())
    files = sum(1 for _ in store.rglob("*")) + 1
    shutil.rmtree(store)
    wanted, measured = planned["wanted"], planned["measured"]
    stages = re.search(r"of ([\d.]+) s, overlapping\): ([^;]*)", built.stderr)
    assert stages is not None, built.stderr
    return {
        "predicted_s": wanted["seconds"],
        "real_s": real,
        "ratio": wanted["seconds"] / real,
        "planning_s": planning,
        "predicted_parts_s": {
            "loading": measured["loading"],
            "scan": measured["scan"]["value"],
            "fill": measured["trial"]["fill"],
            "shards": wanted["rows"] * measured["trial"]["row"],
        },
        "real_shards_s": float(stages[1]),
        "real_stages": stages[2],
        "slowest": wanted["slowest"],
        "rows": wanted["rows"],
        "bytes_ratio": wanted["nbytes"] / nbytes,
        "inodes_ratio": wanted["files"] / files,
    }


def told(name: str, runs: list[dict[str, Any]]) -> str:
    ratios = [one["ratio"] for one in runs]
    right = sum(abs(ratio - 1) <= WITHIN for ratio in ratios)
    real = statistics.median(one["real_s"] for one in runs)
    verdict = "met" if right >= MOST_PART * len(ratios) else "NOT met"
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return (
        f"{name:8s} predicted / real: {shown}; within 25 %: {right} of {len(ratios)}, goal 4 of 5 {verdict}; "
        f"a build {real:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sources", nargs="*", default=["phantom", *GENERATED], choices=["phantom", *GENERATED])
    parser.add_argument("--real", action="append", default=[], metavar="NAME=FOLDER", help="a source of one's own")
    parser.add_argument("--append", action="store_true", help="add to the results instead of writing them anew")
    parser.add_argument("--folder", type=Path, help="where sources and stores are written, and kept; none: temporary")
    args = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = earlier_results("plan").get("runs", {}) if args.append else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        sources = {name: "phantom" if name == "phantom" else str(folder / name) for name in args.sources}
        for name in args.sources:
            if name in GENERATED and not (folder / name).exists():
                GENERATED[name](folder / name)
        sources |= dict(item.split("=", 1) for item in args.real)
        for _ in range(args.runs):
            for name, source in sources.items():
                results.setdefault(name, []).append(run(source, folder))
    for name, runs in results.items():
        print(told(name, runs))
    note = " ".join(__doc__.split("\n\n", 1)[1].split())
    document = {"note": note, "within": WITHIN, "machine": describe(("numpy", "torch", "timm")), "runs": results}
    write_results("plan", document)


if __name__ == "__main__":
    main()
