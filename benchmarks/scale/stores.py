"""Write stores of small rows, and tell what that cost."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.tables import RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path

ROWS_PER_SHARD, FRAMES, VIEWS = 250, 100, 4
LAYERS = (("pixels", "uint8", (1, 16, 16)), ("regions", "uint8", (8,)), ("latents/small", "float16", (4, 16)))
WRITE, SEAL = "write, processor us a row", "seal again, us a row"


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
