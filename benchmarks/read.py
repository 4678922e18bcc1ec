"""Random-batch reads of fp16 ViT-B latents: usjepa (checksums on) beside np.memmap, zarr-python, TensorStore, h5py.

    python -m benchmarks.read [--rows 2048] [--batch 64] [--rounds 15]

Every contender reads the same rows in the same order from a warm page cache into an array of its own, in turn within
each round; the table gives min | median | max over rounds in GB/s of latents.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import tensorstore as ts
import zarr

from benchmarks.machine import describe, report
from usjepa.cache.layers import Layer
from usjepa.cache.storage import LocalStorage
from usjepa.cache.store import open_store
from usjepa.cache.tables import RowTable, SourceTable
from usjepa.cache.writer import StoreWriter

TOKENS, DIM, ROWS_PER_SHARD = 196, 768, 256
Read = Callable[[np.ndarray], np.ndarray]


def make(root: Path, rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((rows, TOKENS, DIM), dtype=np.float32).astype(np.float16)
    layer = Layer("latents/vitb", "float16", (TOKENS, DIM), ROWS_PER_SHARD, {"benchmark": "read"})
    text = np.array(["x"] * rows, dtype=object)
    one = np.ones(rows, np.int32)
    writer = StoreWriter(LocalStorage(root / "store"))
    writer.open(ROWS_PER_SHARD)
    sources = SourceTable(text, text, text, text, text, text, text, one, one, one, text)
    flags = np.zeros(rows, bool)
    row_table = RowTable(np.arange(rows, dtype=np.int32), one, one, one, one, one, one, flags, flags)
    writer.add_segment(sources.to_parquet(), row_table.to_parquet(), rows)
    small = [
        Layer(name, "uint8", shape, ROWS_PER_SHARD, {}) for name, shape in (("pixels", (1, 2, 2)), ("regions", (1,)))
    ]
    for each in (*small, layer):
        writer.add_layer(each)
    for shard in range(writer.state.shard_count):
        numbers = writer.state.rows_of_shard(shard)
        writer.write_shard(layer, shard, latents[numbers.start : numbers.stop], [], {})
        for each in small:
            writer.write_shard(each, shard, np.zeros((len(numbers), *each.shape), np.uint8), [], {})
    writer.seal()
    latents.tofile(root / "flat.bin")
    with h5py.File(root / "flat.h5", "w") as file:
        file.create_dataset("latents", data=latents, chunks=(1, TOKENS, DIM))
    return latents


def contenders(root: Path, rows: int, batch: int) -> dict[str, Read]:
    mm = np.memmap(root / "flat.bin", np.float16, "r", shape=(rows, TOKENS, DIM))
    buffer = np.empty((batch, TOKENS, DIM), np.float16)
    array = zarr.open_array(root / "store/latents/vitb", mode="r")
    path = str(root / "store/latents/vitb")
    tensor = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}).result()
    file = h5py.File(root / "flat.h5", "r")["latents"]
    two, one = open_store(root / "store", threads=2), open_store(root / "store", threads=1)
    return {
        "usjepa, 2 threads, every row checked": lambda r: two.read(r, layers=["latents/vitb"]).latents,
        "usjepa, 1 thread, every row checked": lambda r: one.read(r, layers=["latents/vitb"]).latents,
        "np.memmap mm[rows]": lambda r: np.asarray(mm[r]),
        "np.take(mm, rows, out=buffer)": lambda r: np.take(mm, r, axis=0, out=buffer, mode="clip"),
        "TensorStore": lambda r: np.asarray(tensor[r].read().result()),
        "h5py row by row": lambda r: np.stack([file[i] for i in r]),
        "zarr-python oindex": lambda r: np.asarray(array.oindex[r]),
        "zarr-python row by row": lambda r: np.stack([np.asarray(array[int(i)]) for i in r]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        latents = make(Path(folder), args.rows)
        readers = contenders(Path(folder), args.rows, args.batch)
        samples: dict[str, list[float]] = {who: [] for who in readers}
        rng = np.random.default_rng(1)
        for _ in range(args.rounds):
            rows = rng.permutation(args.rows)[: args.batch]
            for who, read in readers.items():
                start = time.perf_counter()
                got = read(rows)
                samples[who].append(got.nbytes / (time.perf_counter() - start) / 1e9)
                np.testing.assert_array_equal(got, latents[rows])
    note = f"{args.batch} random rows of {args.rows}, fp16 [{TOKENS}, {DIM}], warm page cache"
    report("read", "GB/s", samples, describe(("zarr", "tensorstore", "h5py", "numpy", "xxhash")), note)


if __name__ == "__main__":
    main()
