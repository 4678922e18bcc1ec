"""Read and order rows of stores that are open, in turn."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import SWEEP_NBYTES
from benchmarks.scale.stores import ROWS_PER_SHARD
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.data.clip_runs import frames_of
from usjepa.train.data.order import EpochOrder

if TYPE_CHECKING:
    from pathlib import Path

SEED = 1
FIRST, FEW, BARE_FEW, MANY, ORDER = (
    "first look at a shard, us",
    "read 64 rows of 4 shards, us a row",
    "bare preads of such, us a row",
    "read 64 rows anywhere, us a row",
    "order, us a row",
)


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
