"""Does the cost of a row stay flat as a store grows? `python -m benchmarks.scale [--rows N ...] [--folder /dev/shm]`.

Small rows (16 x 16 pixels, 4 x 8 latents) in shards of 250, so that everything that is paid by row or by shard shows.
Each store is written by the real writer, then opened and read in a fresh process: seconds and resident memory of
opening it, of its tables, of the order of a training epoch, and microseconds to write and to read a row.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from usjepa.cache.layers import Layer
from usjepa.cache.storage import LocalStorage
from usjepa.cache.tables import RowTable, SourceTable
from usjepa.cache.writer import StoreWriter

ROWS_PER_SHARD, FRAMES, VIEWS = 250, 50, 1
LAYERS = [
    Layer("pixels", "uint8", (1, 16, 16), ROWS_PER_SHARD, {"benchmark": 1}),
    Layer("regions", "uint8", (8,), ROWS_PER_SHARD, {"benchmark": 1}),
    Layer("latents/toy", "float16", (4, 8), ROWS_PER_SHARD, {"benchmark": 1}),
]


def tables(rows: int) -> tuple[bytes, bytes]:
    """Clips of 50 frames in 20 datasets, four clips a patient."""
    count = -(-rows // FRAMES)
    ids = range(count)
    texts = {
        "path": [f"set{i % 20:02d}/patient{i // 4:06d}/clip{i:07d}.mp4" for i in ids],
        "dataset": [f"set{i % 20:02d}" for i in ids],
        "group": [f"patient{i // 4:06d}" for i in ids],
        "label": ["" for _ in ids],
        "split": ["test" if i // 4 % 7 == 0 else "train" for i in ids],
        "reader": ["video" for _ in ids],
        "content_hash": [f"{i * 2654435761 % 2**64:032x}" for i in ids],
        "error": ["" for _ in ids],
    }
    numbers = {name: np.full(count, value, np.int32) for name, value in (("frames", 50), ("height", 64), ("width", 64))}
    sources = SourceTable(**{name: np.array(values, object) for name, values in texts.items()}, **numbers)
    row = np.arange(rows, dtype=np.int32)
    zeros, full, flags = np.zeros(rows, np.int32), np.full(rows, 64, np.int32), np.zeros(rows, bool)
    return sources.to_parquet(), RowTable(
        row // FRAMES, row % FRAMES, zeros, zeros, zeros, full, full, flags, flags
    ).to_parquet()


def write(root: Path, rows: int) -> float:
    """Write and seal a store; return microseconds a row, tables left out."""
    writer = StoreWriter(LocalStorage(root))
    writer.open(ROWS_PER_SHARD)
    writer.add_segment(*tables(rows), rows)
    rng = np.random.default_rng(0)
    for layer in LAYERS:
        writer.add_layer(layer)
    content = [rng.integers(0, 60, (ROWS_PER_SHARD, *x.shape), np.uint8).astype(x.dtype) for x in LAYERS]
    start = time.perf_counter()
    for layer, data in zip(LAYERS, content, strict=True):
        for shard in range(writer.state.shard_count):
            writer.write_shard(layer, shard, data[: len(writer.state.rows_of_shard(shard))], [], {"torch": "x"})
    writer.seal()
    return (time.perf_counter() - start) / rows * 1e6


def _resident() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() / 1e6


def inspect(root: str, reads: int) -> dict[str, float]:
    """In a fresh process: what opening, tables, order and reading cost. Seconds and MB."""
    from usjepa.cache.settings import TrainSettings
    from usjepa.cache.store import open_store
    from usjepa.train.order import EpochOrder

    found: dict[str, float] = {}

    def timed(name: str, what: object) -> object:
        before, start = _resident(), time.perf_counter()
        made = what()  # type: ignore[operator]
        found[f"{name} s"], found[f"{name} MB"] = time.perf_counter() - start, _resident() - before
        return made

    store = timed("open", lambda: open_store(root))
    timed("rows", lambda: store.rows)  # type: ignore[attr-defined]
    numbers = np.random.default_rng(0).choice(store.rows, (reads, 64))  # type: ignore[attr-defined]
    # A shard's first row costs opening its files and checking their indexes, once a process.
    first = store.rows[::ROWS_PER_SHARD]  # type: ignore[attr-defined]
    start = time.perf_counter()
    for part in np.array_split(first, -(-len(first) // 64)):
        store.read(part)  # type: ignore[attr-defined]
    found["first touch us a shard"] = (time.perf_counter() - start) / len(first) * 1e6
    # As many rows of a shard in a batch whatever the store's size: 64 rows of 4 shards drawn at random.
    for name, shards in (("read us a row", 4), ("read 64 shards us a row", 64)):
        took = []
        for batch in numbers:
            rows = batch if shards == 64 else batch // ROWS_PER_SHARD
            if shards != 64:
                rows = np.repeat(rows[:shards], 64 // shards) * ROWS_PER_SHARD + batch % ROWS_PER_SHARD
            start = time.perf_counter()
            store.read(rows)  # type: ignore[attr-defined]
            took.append((time.perf_counter() - start) / 64 * 1e6)
        found[name] = statistics.median(took)
    table = timed("tables", lambda: store.table)  # type: ignore[attr-defined]
    columns = timed("columns", lambda: (table.dataset, table.source, table.frame, table.view))  # type: ignore[attr-defined]
    everything = np.arange(len(store.rows))  # type: ignore[attr-defined]
    order = timed("order", lambda: EpochOrder(*columns, everything, TrainSettings()))  # type: ignore[misc]
    timed("epoch", lambda: order.batch(0, 0))  # type: ignore[attr-defined]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", default=None, help="where to write; default: the system's temporary folder")
    parser.add_argument("--reads", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes a store; the median is shown")
    parser.add_argument("--inspect", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inspect:
        print(json.dumps(inspect(args.inspect, args.reads)))
        return
    results = {}
    for rows in args.rows:
        folder = Path(tempfile.mkdtemp(prefix="usjepa-scale-", dir=args.folder))
        try:
            written = write(folder / "s", rows)
            command = [
                sys.executable,
                "-m",
                "benchmarks.scale",
                "--inspect",
                str(folder / "s"),
                "--reads",
                str(args.reads),
            ]
            runs = [json.loads(subprocess.check_output(command)) for _ in range(args.repeats)]
        finally:
            shutil.rmtree(folder)
        figures = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        spread = {name: [min(run[name] for run in runs), max(run[name] for run in runs)] for name in runs[0]}
        results[rows] = {"write us a row": written, **figures, "min_max": spread}
        print(f"{rows:,} rows in {-(-rows // ROWS_PER_SHARD):,} shards a layer")
        for name in ("write us a row", *figures):
            print(f"  {name:24s} {results[rows][name]:10.4f}")
    note = "median of fresh processes, warm page cache; MB is the growth of resident memory"
    target = Path(__file__).parent / "results" / "scale.json"
    document = {"note": note, "machine": describe(("numpy", "pyarrow", "xxhash")), "rows": results}
    target.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
