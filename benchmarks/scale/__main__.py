"""What grows with a store and what must not: `python -m benchmarks.scale [--sizes 1000 10000 100000 1000000]`.

Stores of small rows (16 x 16 pixels, 4 x 16 fp16 latents, 250 rows a shard, clips of 100 frames, 4 views), so that
what a row costs beside its bytes shows: written (processor time: the disk is benchmarks/write.py's), sealed, read,
ordered in batches of 1,024. Random rows of a small store share shards, those of a large one don't, so 64 rows of 4
random shards are read, and 64 rows from anywhere, of all stores in turn, beside bare preads of as many rows; every row
has been read once before, as the memory of a virtual machine may be lent to others while nobody asks for it. Before
each reading and each batch of an order the processor's caches are swept, as a step of training does between them: else
a small store would lie there whole, and a large one not.
Opening is measured in fresh processes, warm page cache: seconds and memory from before `open_store` until it has
returned, until one row is read, and until the tables are read, split and ordered. Memory is looked at after 20,000
random rows and after 200,000. A store of 10,000 shards is read where a process may have 256 open files. At last the
order of an epoch of 100,000,000 rows, of which no store exists. With `--folder` stores are kept and used again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe, write_results
from benchmarks.scale.fresh import GROWTH, OPEN_FILES, OPENED, opening, reading
from benchmarks.scale.in_use import FEW, ORDER, using
from benchmarks.scale.stores import SEAL, WRITE, made, many_shards, sealing
from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.data.clip_runs import Frames, frames_of
from usjepa.train.data.order import EpochOrder

FLAT, FLAT_LINES = 1.25, (WRITE, SEAL, FEW, ORDER)
"""How much more a row of the largest store may cost than one of the smallest."""
HOLDS = "order holds, MB"
LIMIT = 256
"""Files that a process may have open while it reads many shards."""


def huge(rounds: int) -> tuple[EpochOrder, list[float]]:
    """The order of 100,000,000 rows: 62,500 clips of 400 frames, 4 views; microseconds a row of batches of 1,024."""
    source = np.repeat(np.arange(62_500, dtype=np.int32), 1600)
    frame = np.tile(np.repeat(np.arange(400, dtype=np.int32), 4), 62_500)
    view = np.tile(np.arange(4, dtype=np.int16), 25_000_000)
    frames: Frames = frames_of(["clips"] * 62_500, source, frame, view, np.arange(100_000_000))
    order = EpochOrder(frames, TrainSettings(batch_size=1024, dataset_cap=10**9))
    samples = []
    for i in range(rounds):
        start = time.perf_counter()
        order.batch(3, i * 97)
        samples.append((time.perf_counter() - start) / 1024 * 1e6)
    return order, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--folder", help="where the stores are written, and kept; none: a temporary folder")
    args = parser.parse_args()
    columns: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(args.folder or temporary)
        root.mkdir(parents=True, exist_ok=True)
        stores = {rows: made(root, rows) for rows in args.sizes}
        used = using({rows: folder for rows, (folder, _) in stores.items()}, args.rounds)
        for rows, (store, cost) in stores.items():
            read = reading(store, 0, 20_000, 200_000)
            columns[f"{rows:,}"] = {**cost, **sealing(store, rows), **used[rows], **opening(store, 5), **read}
        few_files = reading(many_shards(root, args.shards), LIMIT, 20_000, 200_000)
        columns[f"{args.shards:,} shards"] = few_files
    order, found = huge(args.rounds)
    columns["100,000,000"] = {ORDER: found, HOLDS: [order.nbytes / 1e6]}
    write(columns, goals(columns, f"{max(args.sizes):,}", f"{min(args.sizes):,}"))


def goals(columns: dict[str, dict[str, list[float]]], large: str, small: str) -> dict[str, tuple[float, float]]:
    """Return what -> (figure, the most that it may be)."""

    def middle(size: str, what: str) -> float:
        return statistics.median(columns[size][what])

    found = {
        f"{large} rows: {what}": (middle(large, what), most) for what, most in ((OPENED[0], 0.1), (OPENED[1], 100))
    }
    for what in FLAT_LINES:
        found[f"{what}, of {large} rows over of {small}"] = (middle(large, what) / middle(small, what), FLAT)
    for size, column in columns.items():
        if GROWTH in column:
            found[f"{size}: {GROWTH}"] = (middle(size, GROWTH), 10)
        if "shards" in size:
            found[f"{size}: {OPEN_FILES}"] = (middle(size, OPEN_FILES), LIMIT)
    found[f"100,000,000 rows: {HOLDS} (a permutation: 800)"] = (middle("100,000,000", HOLDS), 80)
    return found


def write(columns: dict[str, dict[str, list[float]]], promised: dict[str, tuple[float, float]]) -> None:
    """Print medians, a line a figure and a column a size, and write benchmarks/results/scale.json."""
    lines = list(dict.fromkeys(name for column in columns.values() for name in column))
    print(f"{'rows':32s}" + "".join(f"{size:>14s}" for size in columns))
    for name in lines:
        cells = [
            f"{statistics.median(column[name]):14.3f}" if name in column else " " * 14 for column in columns.values()
        ]
        print(f"{name:32s}" + "".join(cells))
    told = {
        size: {name: [min(values), statistics.median(values), max(values)] for name, values in column.items()}
        for size, column in columns.items()
    }
    for what, (value, most) in promised.items():
        print(f"  {what}: {value:.3g}, goal at most {most:g}: {'met' if value <= most else 'NOT met'}")
    note = " ".join(__doc__.split("\n\n")[1].split())
    content: dict[str, object] = {
        "note": note,
        "machine": describe(("numpy", "pyarrow", "xxhash")),
        "min_median_max": told,
    }
    content["goals"] = {what: {"value": value, "at_most": most} for what, (value, most) in promised.items()}
    write_results("scale", content)


if __name__ == "__main__":
    main()
