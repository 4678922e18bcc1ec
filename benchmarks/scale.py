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
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.machine import SWEEP_NBYTES, describe
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.train import TrainSettings
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.tables import RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter
from usjepa.train.data.clip_runs import Frames, frames_of
from usjepa.train.data.order import EpochOrder

ROWS_PER_SHARD, FRAMES, VIEWS = 250, 100, 4
LAYERS = (("pixels", "uint8", (1, 16, 16)), ("regions", "uint8", (8,)), ("latents/small", "float16", (4, 16)))
SEED = 1
WRITE, SEAL = "write, processor us a row", "seal again, us a row"
FIRST, FEW, BARE_FEW, MANY, ORDER = (
    "first look at a shard, us",
    "read 64 rows of 4 shards, us a row",
    "bare preads of such, us a row",
    "read 64 rows anywhere, us a row",
    "order, us a row",
)
HOLDS, GROWTH, OPEN_FILES = "order holds, MB", "memory after 10x the rows, more MB", "most open files"
FLAT, FLAT_LINES = 1.25, (WRITE, SEAL, FEW, ORDER)
"""How much more a row of the largest store may cost than one of the smallest."""
LIMIT = 256

OPENING = """
import json, os, sys, time
from pathlib import Path
import usjepa.cache.reading.store

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

imports = before = resident()
start = time.perf_counter()
store = usjepa.cache.reading.store.open_store(sys.argv[1])
opened, opened_mb = time.perf_counter() - start, resident() - before
store.read([0])
first, first_mb = time.perf_counter() - start, resident() - before
# Not ru_maxrss, which begins with the memory of the process that started this one.
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e3

from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.data.clip_runs import frames_of
from usjepa.train.data.order import EpochOrder
from usjepa.train.data.split import split_rows
before, start = resident(), time.perf_counter()
table, settings = store.table, TrainSettings()
split = split_rows(table, settings)
names = [source.dataset for source in table.sources]
EpochOrder(frames_of(names, table.source, table.frame, table.view, split.train), settings).batch(0, 0)
ready, ready_mb = time.perf_counter() - start, resident() - before
print(json.dumps([opened, opened_mb, first, first_mb, imports, peak, ready, ready_mb]))
"""
READING = """
import json, os, resource, sys
from pathlib import Path
import numpy as np
from usjepa.cache.reading.store import open_store

folder, limit, least, most = sys.argv[1], *map(int, sys.argv[2:])
if limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
store, rng, opened = open_store(folder, threads=4), np.random.default_rng(0), 0

def read(rows):
    global opened
    for _ in range(rows // 64):
        store.read(rng.choice(store.rows, 64))
        opened = max(opened, len(os.listdir("/proc/self/fd")))
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

before = read(least)
print(json.dumps([read(most - least) - before, opened]))
"""
OPENED = (
    "open, s",
    "open, MB",
    "open and read a row, s",
    "open and read a row, MB",
    "process before, MB",
    "process at its peak, MB",
    "tables, split and order, s",
    "tables, split and order, MB",
)


def tables(rows: int) -> tuple[bytes, bytes]:
    """Parquet bytes of a segment of clips."""
    clips = -(-rows // (FRAMES * VIEWS))
    names = np.array([f"clips/patient-{i // 3:06d}/clip-{i:07d}.mp4" for i in range(clips)], dtype=object)
    groups = np.array([f"patient-{i // 3:06d}" for i in range(clips)], dtype=object)
    hashes = np.array([f"{i:032x}" for i in range(clips)], dtype=object)

    def text(value: str) -> np.ndarray:
        return np.full(clips, value, dtype=object)

    size = np.full(clips, 480, np.int32)
    frames = np.full(clips, FRAMES, np.int32)
    sources = SourceTable(
        names, text("clips"), groups, text(""), text("train"), text("video"), hashes, frames, size, size, text("")
    )
    number = np.arange(rows, dtype=np.int32)
    frame = number // VIEWS
    edge, flags = np.full(rows, 480, np.int32), np.zeros(rows, bool)
    zero = np.zeros(rows, np.int32)
    row_table = RowTable(frame // FRAMES, frame % FRAMES, number % VIEWS, zero, zero, edge, edge, flags, flags)
    return sources.to_parquet(), row_table.to_parquet()


def make(folder: Path, rows: int, rows_per_shard: int = ROWS_PER_SHARD) -> dict[str, float]:
    """Write and seal a store; microseconds of processor time that a row took to write."""
    writer = StoreWriter(LocalStorage(folder))
    writer.create_or_open(rows_per_shard)
    writer.add_segment(*tables(rows), rows)
    layers = [writer.add_layer(Layer(name, kind, shape, rows_per_shard, {})) for name, kind, shape in LAYERS]
    content = {layer.name: np.ones((rows_per_shard, *layer.shape), layer.dtype) for layer in layers}
    used = time.process_time()
    for shard in range(writer.state.shard_count):
        numbers = writer.state.rows_of_shard(shard)
        for layer in layers:
            writer.write_shard(layer, shard, content[layer.name][: len(numbers)], [], {})
    used = time.process_time() - used
    writer.seal()
    return {WRITE: used / rows * 1e6}


def sealing(folder: Path, rows: int) -> dict[str, list[float]]:
    """Seal what is sealed: every commit record is read and compared, as the first time, and no generation is made."""
    writer, took = StoreWriter(LocalStorage(folder)), []
    writer.attach()
    for _ in range(3):
        start = time.perf_counter()
        writer.seal()
        took.append((time.perf_counter() - start) / rows * 1e6)
    return {SEAL: took}


def made(root: Path, rows: int) -> tuple[Path, dict[str, list[float]]]:
    """Return a store under `root` and what its making cost, which is kept beside it."""
    store, kept = root / f"{rows}.zarr", root / f"{rows}.json"
    if not kept.exists():
        shutil.rmtree(store, ignore_errors=True)
        kept.write_text(json.dumps(make(store, rows)))
    return store, {what: [value] for what, value in json.loads(kept.read_text()).items()}


def many_shards(root: Path, shards: int) -> Path:
    """Return a store of one row a shard; without fsync, as nothing here is about durability."""
    store = root / f"{shards}-shards.zarr"
    if not (store / "manifest.json").exists():
        shutil.rmtree(store, ignore_errors=True)
        with mock.patch("os.fsync"):
            make(store, shards, 1)
    return store


def reading(folder: Path, limit: int, least: int, most: int) -> dict[str, list[float]]:
    """Read random rows in a fresh process that may have `limit` open files (0: as many as usual)."""
    command = [sys.executable, "-c", READING, str(folder), str(limit), str(least), str(most)]
    growth, opened = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {GROWTH: [growth], OPEN_FILES: [opened]}


def opening(folder: Path, rounds: int) -> dict[str, list[float]]:
    found = [
        json.loads(subprocess.run([sys.executable, "-c", OPENING, str(folder)], capture_output=True, check=True).stdout)
        for _ in range(rounds)
    ]
    return {name: [values[i] for values in found] for i, name in enumerate(OPENED)}


class InUse:
    """An open store of `rows`, whose random rows are read and whose order is computed."""

    def __init__(self, folder: Path, rows: int, sweep: np.ndarray) -> None:
        self.folder, self.sweep, self.files = folder, sweep, dict[tuple[str, int], int]()
        self.rng, self.rows, self.shards = np.random.default_rng(SEED), rows, -(-rows // ROWS_PER_SHARD)
        self.store = open_store(folder)
        table = self.store.table
        names = [source.dataset for source in table.sources]
        frames = frames_of(names, table.source, table.frame, table.view, np.arange(rows))
        self.order = EpochOrder(frames, TrainSettings(batch_size=1024))
        self.found: dict[str, list[float]] = {FIRST: [], FEW: [], BARE_FEW: [], MANY: [], ORDER: []}

    def look(self) -> None:
        """Read a row of every shard."""
        start = time.perf_counter()
        for first in range(0, self.rows, 64 * ROWS_PER_SHARD):
            self.store.read(range(first, min(self.rows, first + 64 * ROWS_PER_SHARD), ROWS_PER_SHARD))
        self.found[FIRST].append((time.perf_counter() - start) / self.shards * 1e6)
        for first in range(0, self.rows, 1000):
            self.store.read(range(first, min(self.rows, first + 1000)))

    def bare(self, batch: np.ndarray) -> float:
        """Return microseconds a row of bare preads from files that are open, of the first 1,000 shards only: all of a
        large store's files, open once more, would be more than a process may have."""
        rows = sorted((batch % (1000 * ROWS_PER_SHARD)).tolist())
        asked = []
        for name, layer in self.store.layers.items():
            for row in rows:
                shard, slot = divmod(row, ROWS_PER_SHARD)
                if (name, shard) not in self.files:
                    path = self.folder / layer.shard_name(shard)
                    self.files[name, shard] = os.open(path, os.O_RDONLY)
                asked.append((self.files[name, shard], layer.layout.slot_nbytes, slot * layer.layout.slot_nbytes))
        self.sweep += 1
        start = time.perf_counter()
        for file, nbytes, offset in asked:
            os.pread(file, nbytes, offset)
        return (time.perf_counter() - start) / len(batch) * 1e6

    def batches(self, number: int) -> None:
        """Read two batches and order one, each after a sweep of the processor's caches."""
        shards = self.rng.integers(0, self.shards, 4)[np.arange(64) // 16]
        few = shards * ROWS_PER_SHARD + self.rng.integers(0, ROWS_PER_SHARD, 64)
        for name, batch in ((FEW, few), (MANY, self.rng.integers(0, self.rows, 64))):
            self.sweep += 1
            start = time.perf_counter()
            self.store.read(batch)
            self.found[name].append((time.perf_counter() - start) / len(batch) * 1e6)
        self.found[BARE_FEW].append(self.bare(few))
        self.sweep += 1
        start = time.perf_counter()
        got = self.order.batch(0, number % self.order.steps_per_epoch())
        self.found[ORDER].append((time.perf_counter() - start) / len(got) * 1e6)


def using(folders: dict[int, Path], rounds: int) -> dict[int, dict[str, list[float]]]:
    """Return microseconds a row of random batches, read and ordered, of all stores in turn: what else the machine does
    then meets all alike."""
    sweep, rng = np.zeros(SWEEP_NBYTES // 8), np.random.default_rng(SEED)
    stores = [InUse(folder, rows, sweep) for rows, folder in folders.items()]
    for store in stores:
        store.look()
    for number in range(rounds):
        for at in rng.permutation(len(stores)):
            stores[at].batches(number)
    return {store.rows: store.found for store in stores}


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
    (Path(__file__).parent / "results" / "scale.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
