"""What a store in a bucket costs in round trips: `python -m benchmarks.object_storage [--shards 40000]`.

A server on loopback answers each request a fixed time after it came (`server.py`): 20 ms where much is asked for, 5 ms
for batches. Rows of 64 from as many shards: small ones (4 x 16 fp16 latents), where only requests cost, and ViT-B's
(196 x 768 fp16, 301 kB) with their pixels, which move 22 MB. A first batch also reads the ends of its shards. Beside
them the same ranges by bare obstore, all under way at once, unchecked. What is committed is asked for of a store of
many shards of one row, two layers: a seal by a writer that knows nothing yet, and by one that does. Everything runs on
the cores of one machine, the server too, which takes one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import obstore
from obstore.store import from_url

from benchmarks.machine import describe, earlier_results, write_results
from benchmarks.object_storage.server import bucket
from benchmarks.scale.stores import tables
from usjepa.cache import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.objects import ObjectStorage
from usjepa.cache.store.commits import Commit
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.shard import pack_shard
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.reading.store import Store

SMALL = {"pixels": ("uint8", (1, 16, 16)), "regions": ("uint8", (8,)), "latents/toy": ("float16", (4, 16))}
LARGE = {"pixels": ("uint8", (1, 224, 224)), "regions": ("uint8", (1568,)), "latents/toy": ("float16", (196, 768))}
BARE = {"pixels": ("uint8", (1, 16, 16)), "regions": ("uint8", (8,))}
Samples = dict[str, list[float]]


def make(root: Path, shapes: dict[str, tuple[str, tuple[int, ...]]], rows: int, rows_per_shard: int) -> Path:
    """Write and seal a store of random rows, without fsync: nothing here is about durability."""
    with mock.patch("os.fsync"):
        writer = StoreWriter(LocalStorage(root))
        writer.create_or_open(rows_per_shard)
        writer.add_segment(*tables(rows), rows)
        layers = [
            writer.add_layer(Layer(name, kind, shape, rows_per_shard, {})) for name, (kind, shape) in shapes.items()
        ]
        noise = np.random.default_rng(0)
        content = {one.name: noise.integers(0, 50, (rows_per_shard, *one.shape)).astype(one.dtype) for one in layers}
        for shard in range(writer.state.shard_count):
            for layer in layers:
                rows_here = len(writer.state.rows_of_shard(shard))
                writer.write_shard(layer, shard, content[layer.name][:rows_here], [], {})
        writer.seal()
    return root


def make_many(root: Path, shards: int) -> Path:
    """Write shards of one row and their records, two layers, as a build leaves them before it seals."""
    with mock.patch("os.fsync"):
        writer = StoreWriter(LocalStorage(root))
        writer.create_or_open(1)
        writer.add_segment(*tables(shards), shards)
        layers = [writer.add_layer(Layer(name, kind, shape, 1, {})) for name, (kind, shape) in BARE.items()]
    for layer in layers:
        row = bytes(layer.row_nbytes)
        for shard in range(shards):
            data, table = pack_shard([row], layer.layout, bytes.fromhex(layer.digest), shard)
            for name, content in (
                (layer.shard_name(shard), data),
                (layer.commit_name(shard), Commit(shard, len(data), table, layer.digest, {}).to_bytes()),
            ):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
    return root


def bare(store: Store, rows: np.ndarray, layers: Sequence[str]) -> float:
    """Return the seconds that obstore takes for the same rows, of shards whose places are known, all at once."""
    raw = from_url(store.location)
    asked = []
    for name in layers:
        layout = store.layers[name].layout
        for shard in np.unique(rows // layout.rows).tolist():
            mine = np.sort(rows[rows // layout.rows == shard]) % layout.rows
            asked.append(
                (store.layers[name].shard_name(shard), (mine * layout.slot_nbytes).tolist(), layout.slot_nbytes)
            )

    async def fetch() -> None:
        calls = [
            obstore.get_ranges_async(raw, name, starts=starts, lengths=[nbytes] * len(starts))
            for name, starts, nbytes in asked
        ]
        for parts in await asyncio.gather(*calls):
            for part in parts:
                bytes(part)

    start = time.perf_counter()
    asyncio.run(fetch())
    return time.perf_counter() - start


def batches(root: Path, delay_s: float, rounds: int, layers: Sequence[str]) -> Samples:
    """Read random batches of 64 rows: the first after opening, later ones, and the same by bare obstore."""
    found: Samples = {"first": [], "later": [], "bare": []}
    rng = np.random.default_rng(0)
    with bucket(root.parent, delay_s):
        url = f"s3://b/{root.name}"
        open_store(url).read(range(64), layers=layers)  # connections, threads
        for _ in range(rounds):
            store = open_store(url)
            rows = rng.choice(store.rows, 64, replace=False)
            for name in ("first", "later"):
                start = time.perf_counter()
                store.read(rows, layers=layers)
                found[name].append(time.perf_counter() - start)
            found["bare"].append(bare(store, rows, layers))
            store.close()
    return found


def stream(root: Path, delay_s: float, rounds: int) -> Samples:
    """Read runs of neighbours, 128 rows a batch, and the same by bare obstore; bytes a second."""
    found: Samples = {"ours": [], "bare": []}
    with bucket(root.parent, delay_s):
        store = open_store(f"s3://b/{root.name}")
        nbytes = 128 * sum(layer.row_nbytes for layer in store.layers.values())
        store.read(store.rows[:: store.manifest.rows_per_shard])  # the ends of all shards
        for number in range(rounds):
            rows = store.rows[number % 8 * 128 :][:128]
            start = time.perf_counter()
            store.read(rows)
            found["ours"].append(nbytes / (time.perf_counter() - start) / 1e9)
            found["bare"].append(nbytes / bare(store, rows, list(store.layers)) / 1e9)
    return found


def commits(root: Path, delay_s: float) -> Samples:
    """Seal a store of many shards, as a process that knows none of them and then as one that does; open it."""
    found: Samples = {}
    with bucket(root.parent, delay_s):
        url = f"s3://b/{root.name}"
        writer = StoreWriter(ObjectStorage(url))
        writer.attach()
        for name in ("first", "again"):
            start = time.perf_counter()
            writer.seal()
            found[name] = [time.perf_counter() - start]
        start = time.perf_counter()
        open_store(url)
        found["open"] = [time.perf_counter() - start]
    return found


def rows(folder: Path, rounds: int) -> Samples:
    """Measure batches and runs of rows."""
    small = make(folder / "small", SMALL, 1024, 8)
    large = make(folder / "large", LARGE, 1024, 32)
    samples: Samples = {}
    for what, root, layers in (
        ("64 small rows of one layer, 5 ms", small, ["latents/toy"]),
        ("64 small rows of three layers, 5 ms", small, list(SMALL)),
        ("64 ViT-B rows of one layer, 5 ms", large, ["latents/toy"]),
        ("64 ViT-B rows of three layers, 5 ms", large, list(LARGE)),
    ):
        for name, values in batches(root, 0.005, rounds, layers).items():
            samples[f"{what}: {name}, ms"] = [value * 1000 for value in values]
    for name, values in stream(large, 0.02, rounds).items():
        samples[f"128 ViT-B rows in a row, 20 ms: {name}, GB/s"] = values
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shards", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", choices=["rows", "commits"], help="what the other part gave stays in the file")
    parser.add_argument("--folder", type=Path, help="where stores are written; none: temporary")
    args = parser.parse_args()
    note = " ".join(__doc__.split("\n\n")[1].split())
    content = earlier_results("object_storage") | {"note": note}
    for part in ("rows", "commits"):
        if args.only in (None, part):
            machine = describe(("obstore", "numpy", "xxhash"))
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                if part == "rows":
                    samples = rows(Path(folder), args.rounds)
                else:
                    known = commits(make_many(Path(folder) / "many", args.shards), 0.02)
                    label = f"{args.shards:,} shards of two layers, 20 ms"
                    samples = {f"{label}: {name}, s": values for name, values in known.items()}
            content[part] = {"machine": machine, "min_median_max": tell(samples)}
    write_results("object_storage", content)


def tell(samples: Samples) -> Samples:
    """Print least, median and most of each sample, and return them."""
    told = {what: [min(values), statistics.median(values), max(values)] for what, values in samples.items()}
    for what, (least, middle, most) in told.items():
        print(f"{what:62s} {middle:10.3f}   ({least:.3f} to {most:.3f})")
    return told


if __name__ == "__main__":
    main()
