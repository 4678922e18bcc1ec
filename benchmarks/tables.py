"""What the tables of a large store cost a process: `python -m benchmarks.tables [--sources 5100000]`.

A store's tables alone, of single images with four views (20.4 million rows in 39,844 shards): names of 44 letters, a
group a patient of three images, hashes of content, and boxes as views draw them. Measured in fresh processes, from
before `open_store`: what a training process has grown by once its order and its validation rows are known and a batch
is drawn, what a process that builds has once it has cut up the rows of shards from end to end, and the peak of each on
its way. A process that decodes is sent the rows of a shard at a time and holds no tables.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from benchmarks.machine import describe, write_results
from usjepa.cache.sources.files.stamps import stamp_of
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.generations import Manifest
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.writer import StoreWriter

VIEWS, ROWS_PER_SHARD, EDGE, MOST_MB = 4, 512, 640, 300
_MEMORY = """
import json, os, sys, time
from pathlib import Path
import numpy as np
import pyarrow.parquet
def memory(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6
"""
_ENDS = """
start = time.perf_counter()
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = memory("VmRSS")
run()
print(json.dumps([time.perf_counter() - start, memory("VmRSS") - before, memory("VmHWM") - before]))
"""
TRAINING = (
    _MEMORY
    + """
from usjepa.cache import open_store
from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.data.clip_runs import frames_of_part
from usjepa.train.data.order import EpochOrder, first_views_of
from usjepa.train.data.split import split_rows
settings = TrainSettings(batch_size=1024, dataset_cap=10**9)
def run():
    global kept
    store = open_store(sys.argv[1])
    table = store.table
    split = split_rows(table, settings)
    order = EpochOrder(frames_of_part(table.dataset_codes(), table, split.train), settings)
    held = first_views_of(table, split.validation)
    kept = store, split, order, held, store.row_numbers(order.batch(0, 0))
"""
    + _ENDS
)
BUILDING = (
    _MEMORY
    + """
from usjepa.cache import open_store
from usjepa.cache.decoding.segment_rows import SegmentRows
from usjepa.cache.storage.location import open_storage
store = open_store(sys.argv[1])
def run():
    global kept
    storage, segment = open_storage(sys.argv[1]), store.manifest.segments[0]
    kept = SegmentRows(storage, segment)
    for shard in range(0, store.manifest.shard_count, 16):
        kept.block(range(512 * shard, min(512 * (shard + 1), segment.rows)))
"""
    + _ENDS
)
OPENING = (
    _MEMORY
    + "from usjepa.cache import open_store\ndef run():\n    global kept\n    kept = open_store(sys.argv[1])\n"
    + _ENDS
)


def _packed(columns: dict[str, pa.Array]) -> bytes:
    """Return a table as `to_parquet` writes it."""
    table, sink = pa.table(columns), pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=table.num_rows, compression="zstd", store_schema=False)
    return sink.getvalue().to_pybytes()


def path(number: int) -> str:
    """Return the path of a source."""
    return f"images/{group(number)}/frame-{number:09d}.png"


def group(number: int) -> str:
    """Return the group of a source."""
    return f"patient-{number // 3:09d}"


def tables(sources: int, start: int = 0) -> tuple[bytes, bytes]:
    """Return the Parquet bytes of a segment of single images, the first of which has the number `start`."""
    rng = np.random.default_rng(0)
    number = np.arange(sources)

    def text(value: str) -> pa.Array:
        return pa.repeat(value, sources)

    those = range(start, start + sources)
    described = {
        "path": pa.array(map(path, those), pa.string()), "dataset": text("images"),
        "group": pa.array(map(group, those), pa.string()), "label": text(""), "split": text("train"),
        "reader": text(stamp_of("images")),
        "content_hash": pa.array((xxhash.xxh3_128_hexdigest(path(i).encode()) for i in those), pa.string()),
        "frames": pa.array(np.ones(sources, np.int32)),
        "height": pa.array(np.full(sources, EDGE, np.int32)), "width": pa.array(np.full(sources, EDGE, np.int32)),
        "error": text(""),
    }  # fmt: skip
    rows = sources * VIEWS
    view = np.tile(np.arange(VIEWS, dtype=np.int32), sources)
    height = rng.integers(int(0.6 * EDGE), EDGE, rows, dtype=np.int32)
    width = rng.integers(int(0.6 * EDGE), EDGE, rows, dtype=np.int32)
    top, left = ((rng.random(rows, np.float32) * (EDGE - side)).astype(np.int32) for side in (height, width))
    for column, whole in ((height, EDGE), (width, EDGE), (top, 0), (left, 0)):
        column[view == 0] = whole
    flips = rng.random((2, rows), np.float32) < 0.5
    numbers = {"source": np.repeat(number.astype(np.int32), VIEWS), "frame": np.zeros(rows, np.int32), "view": view}
    boxes = {"top": top, "left": left, "height": height, "width": width}
    lines = numbers | boxes | {"flip_horizontal": flips[0], "flip_vertical": flips[1]}
    return _packed(described), _packed({name: pa.array(column) for name, column in lines.items()})


def make(root: Path, sources: int, start: int = 0) -> None:
    """Write the tables and a manifest of a store whose shards nobody reads."""
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(ROWS_PER_SHARD)
    writer.add_segment(*tables(sources, start), sources * VIEWS)
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = (("pixels", (1, 224, 224)), ("regions", (1568,)))
    layers = {name: writer.add_layer(Layer(name, "uint8", shape, ROWS_PER_SHARD, {})) for name, shape in shapes}
    hashes = tuple(f"{shard:032x}" for shard in range(writer.state.shard_count))
    soft = dict.fromkeys(layers, ((0, dict[str, object]()),))
    tables_of = dict.fromkeys(layers, hashes)
    writer.publish_generation(Manifest(1, ROWS_PER_SHARD, writer.state.segments, layers, tables_of, soft, ()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sources", type=int, default=5_100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--make", metavar="STORE", help="write the store there, and do nothing else")
    parser.add_argument("--first", type=int, default=0, help="number of the first source of that store")
    args = parser.parse_args()
    if args.make:
        make(Path(args.make), args.sources, args.first)
        return
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/s"
        # In a process of its own: what it took to write them stays in no one's memory.
        command = [sys.executable, "-m", "benchmarks.tables", "--sources", str(args.sources), "--make", store]
        subprocess.run(command, check=True)
        for table in ("sources", "rows"):
            size = (Path(store) / f"segments/000001/{table}.parquet").stat().st_size
            found[f"{table}.parquet, MB"] = [size / 1e6]
        for what, program in (("open", OPENING), ("train", TRAINING), ("build", BUILDING)):
            for _ in range(args.rounds):
                command = [sys.executable, "-c", program, store]
                told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
                for name, value in zip(("s", "MB", "MB at the peak"), told, strict=True):
                    found.setdefault(f"{what}, {name}", []).append(value)
    told = {what: [min(values), statistics.median(values), max(values)] for what, values in found.items()}
    for what, (least, middle, most) in told.items():
        goal = (
            f"goal {MOST_MB}: {'met' if middle <= MOST_MB else 'NOT met'}"
            if what.startswith(("train, MB", "build, MB"))
            else ""
        )
        print(f"{what:32s} {middle:10.2f}   ({least:.2f} to {most:.2f})  {goal}")
    note = " ".join(__doc__.split("\n\n")[1].split())
    content: dict[str, object] = {"note": note, "sources": args.sources, "views": VIEWS, "goal_MB": MOST_MB}
    content |= {"machine": describe(("numpy", "pyarrow", "xxhash")), "min_median_max": told}
    write_results("tables", content)


if __name__ == "__main__":
    main()
