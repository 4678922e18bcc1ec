"""How busy pretended devices are, and a worker of Dask beside a serial build.

    python -m benchmarks.cluster [--rows 40960] [--rounds 3] [--rate 2000] [--ways serial,dask,devices] [--folder /tmp]

Devices compute 2,000 rows a second and sleep, 16 children decode a tenth more than that and sleep: what is measured is
whether decoding, teacher and writing overlap, hardly how fast the processor is. Three builds, in turn: serial, by one
worker of Dask, and by two devices of one process that share the decoders (each of half the rate). A device's share of
the time is from the moment that its pipeline is there, its filling and draining included, to the last commit. Whole
builds are commands, from the start of the interpreter to its end: a worker's start, its import of torch and its end
weigh in.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cluster import DECODERS, recipe
from benchmarks.machine import Goal, describe, report
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.frames.layers import pixel_layers

WAYS: dict[str, list[str]] = {"serial": [], "dask": ["--dask", "local:1"], "devices": ["--devices", "cpu,cpu"]}
NAMES = {"serial": "serial build", "dask": "--dask local:1", "devices": "two --devices of half the rate"}


def run(way: str, pixels: Path, folder: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Return rows a second of a whole command, and the share of the time that its devices computed."""
    store, notes = folder / "store", folder / "notes.json"
    shutil.copytree(pixels, store)
    count = 2 if way == "devices" else 1
    layers = pixel_layers(recipe(args.rows).cache, 1)
    shapes: dict[str, Any] = {layer.name: layer.shape for layer in layers}
    decoder_rate = args.rate * args.decoding / DECODERS
    told = shapes | {"rate": args.rate / count, "decoder_rate": decoder_rate, "notes": str(notes)}
    environment = os.environ | {
        "USJEPA_PRETENDED": json.dumps(told),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": '["benchmarks.cluster.pretending"]',
    }
    command = [sys.executable, "-m", "benchmarks.cluster.one", str(store), "--rows", str(args.rows), *WAYS[way]]
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True)
    took = time.perf_counter() - start
    rows, wall = json.loads(notes.read_text())
    shutil.rmtree(store)
    return rows / took, rows / args.rate / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40960)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2000.0, help="rows a second of all devices together")
    parser.add_argument("--decoding", type=float, default=1.1, help="rate of the decoders together, in that of devices")
    parser.add_argument("--ways", default=",".join(WAYS), type=lambda text: text.split(","))
    parser.add_argument("--folder", type=Path, help="where stores are written; its disk is part of what is measured")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {way: [] for way in args.ways}
    shares: dict[str, list[float]] = {way: [] for way in args.ways}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        begun = Path(folder) / "begun"
        shards = -(-args.rows // recipe(args.rows).cache.rows_per_shard)
        build(str(begun), recipe(args.rows), BuildRequest(teacher="random", part=f"{shards}/{shards}"))
        for _ in range(args.rounds):
            for way in args.ways:
                rate, share = run(way, begun, Path(folder), args)
                rates[way].append(rate)
                shares[way].append(share)
    goals = [Goal(f"{NAMES[way]}: devices compute", shares[way], [1.0] * args.rounds, 0.9) for way in args.ways]
    for way in args.ways:
        if way != "serial" and "serial" in args.ways:
            goals.append(Goal(f"{NAMES[way]} / serial, shards", shares[way], shares["serial"], 0.9))
            least = 0.9 if way == "dask" else None
            goals.append(Goal(f"{NAMES[way]} / serial, whole builds", rates[way], rates["serial"], least))
    note = f"{args.rows} rows, pretended: {DECODERS} decoders, devices of {args.rate:,.0f} rows/s together"
    samples = {f"{NAMES[way]}, whole": rates[way] for way in args.ways}
    report("cluster", "rows/s", samples, describe(("torch", "numpy", "distributed")), note, goals)


if __name__ == "__main__":
    main()
