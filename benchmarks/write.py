"""Writing shards of fp16 ViT-B latents: usjepa (assembled, hashed, fsynced, committed) beside plain write + fsync.

    python -m benchmarks.write [--shards 2] [--rounds 9] [--folder DIR]

Both write the same number of shards of the same bytes, in turn within each round. The plain twin writes each file in
one piece, fsyncs it and its folder, and neither hashes nor renames. `memory` is how far the peak of a fresh process
rises when 1, 2 and 4 times the shards are written: it must not grow with them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import Goal, describe, report
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.tables import RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter

TOKENS, DIM, ROWS_PER_SHARD = 196, 768, 512
OURS, PLAIN = "usjepa shards", "plain write + fsync"


def writer_of(root: Path, shards: int) -> tuple[StoreWriter, Layer]:
    rows = shards * ROWS_PER_SHARD
    text = np.array(["x"] * rows, dtype=object)
    one, flags = np.ones(rows, np.int32), np.zeros(rows, bool)
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(ROWS_PER_SHARD)
    sources = SourceTable(text, text, text, text, text, text, text, one, one, one, text)
    table = RowTable(np.arange(rows, dtype=np.int32), one, one, one, one, one, one, flags, flags)
    writer.add_segment(sources.to_parquet(), table.to_parquet(), rows)
    layer = Layer("latents/vitb", "float16", (TOKENS, DIM), ROWS_PER_SHARD, {"benchmark": "write"})
    return writer, writer.add_layer(layer)


def write_ours(root: Path, latents: np.ndarray, shards: int) -> float:
    """Return bytes of latents a second; the first shard, for which the writer's memory is new, does not count."""
    writer, layer = writer_of(root, shards + 1)
    writer.write_shard(layer, 0, latents, [], {})
    start = time.perf_counter()
    for shard in range(1, shards + 1):
        writer.write_shard(layer, shard, latents, [], {})
    return shards * latents.nbytes / (time.perf_counter() - start)


def write_plain(root: Path, latents: np.ndarray, shards: int) -> float:
    """Return bytes a second; the first file does not count here either."""
    root.mkdir()
    data = latents.reshape(-1).view(np.uint8).data
    start = time.perf_counter()
    for shard in range(shards + 1):
        if shard == 1:
            start = time.perf_counter()
        for name, flags in ((root / f"{shard}.bin", os.O_WRONLY | os.O_CREAT | os.O_EXCL), (root, os.O_RDONLY)):
            handle = os.open(name, flags)
            if name != root:
                done = 0
                while done < len(data):
                    done += os.write(handle, data[done:])
            os.fsync(handle)
            os.close(handle)
    return shards * latents.nbytes / (time.perf_counter() - start)


def one_shard() -> np.ndarray:
    rng = np.random.default_rng(0)
    latents = np.empty((ROWS_PER_SHARD, TOKENS, DIM), np.float16)
    for row in latents:  # a row at a time, so that making them is not the peak that is measured
        row[:] = rng.standard_normal(row.shape, dtype=np.float32)
    return latents


def peak_mib(folder: Path, shards: int) -> float:
    """Return how far writing raises the peak memory of a fresh process, in MiB."""
    asked = [sys.executable, "-m", "benchmarks.write", "--peak", str(shards), "--folder", str(folder)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak(folder: Path, shards: int) -> None:
    latents = one_shard()
    with tempfile.TemporaryDirectory(dir=folder) as root:
        before = high_water_mib()
        write_ours(Path(root) / "s", latents, shards)
        print(high_water_mib() - before)


def high_water_mib() -> float:
    """Return the peak of this process's memory; getrusage would count what its parent held before it started."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where to write; its file system is what is measured")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print_peak(args.folder, args.peak)
        return
    latents = one_shard()
    samples: dict[str, list[float]] = {OURS: [], PLAIN: []}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for turn in range(args.rounds):
            pair = [(OURS, write_ours), (PLAIN, write_plain)]
            for who, write in pair if turn % 2 else pair[::-1]:
                root = Path(folder) / "out"
                samples[who].append(write(root, latents, args.shards) / 1e9)
                shutil.rmtree(root)
                os.sync()  # what was removed is no one's burden
        peaks = {f"memory, MiB: {n} shards": [peak_mib(Path(folder), n)] for n in (1, 2, 4)}
    shard_mib = latents.nbytes / 2**20
    note = f"{args.shards} shards of {ROWS_PER_SHARD} rows fp16 [{TOKENS}, {DIM}], {shard_mib:.0f} MiB each"
    goals = [Goal("usjepa / plain write + fsync", samples[OURS], samples[PLAIN], 0.8)]
    report("write", "GB/s", {**samples, **peaks}, describe(("numpy", "xxhash", "google-crc32c")), note, goals)


if __name__ == "__main__":
    main()
