"""A store of ViT-B latents and its flat twin, read in rounds from a page cache whose state is stated."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import SWEEP_NBYTES
from benchmarks.read.limits import DIM, LAYER, ROWS_PER_SHARD, TOKENS, flat_file, limits, shard_files
from benchmarks.read.page_cache import check_in_memory, drop, read_through
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.memory import aligned_empty
from usjepa.cache.store.tables import RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.read.peers import Array, Read

Samples = dict[str, list[float]]
"""Contender -> GB/s in every round."""
OURS, UNCHECKED, ONE = "usjepa, 2 threads", "usjepa, 2 threads, unchecked", "usjepa, 1 thread"
FRESH, REUSED = ", fresh memory", ", reused memory"


def make(root: Path, rows: int) -> None:
    """Write a store and its flat twin."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((rows, TOKENS, DIM), dtype=np.float32).astype(np.float16)
    layer = Layer(LAYER, "float16", (TOKENS, DIM), ROWS_PER_SHARD, {"benchmark": "read"})
    text = np.array(["x"] * rows, dtype=object)
    one = np.ones(rows, np.int32)
    writer = StoreWriter(LocalStorage(root / "store"))
    writer.create_or_open(ROWS_PER_SHARD)
    sources = SourceTable(text, text, text, text, text, text, text, one, one, one, text)
    flags = np.zeros(rows, bool)
    row_table = RowTable(np.arange(rows, dtype=np.int32), one, one, one, one, one, one, flags, flags)
    writer.add_segment(sources.to_parquet(), row_table.to_parquet(), rows)
    shapes = {"pixels": (1, 2, 2), "regions": (1,)}
    small = [Layer(name, "uint8", shape, ROWS_PER_SHARD, {}) for name, shape in shapes.items()]
    for each in (*small, layer):
        writer.add_layer(each)
    for shard in range(writer.state.shard_count):
        numbers = writer.state.rows_of_shard(shard)
        writer.write_shard(layer, shard, latents[numbers.start : numbers.stop], [], {})
        for each in small:
            writer.write_shard(each, shard, np.zeros((len(numbers), *each.shape), np.uint8), [], {})
    writer.seal()
    latents.tofile(flat_file(root))


class Bench:
    """A store and its flat twin that `make` wrote, and how they are read."""

    def __init__(self, root: Path, rounds: int) -> None:
        self.root, self.rounds = root, rounds
        self.latents = np.fromfile(flat_file(root), np.float16).reshape(-1, TOKENS, DIM)
        self.files = [*shard_files(root), flat_file(root)]
        self._sweep = np.zeros(SWEEP_NBYTES // 8)

    def sweep(self) -> None:
        """Drive all else out of the processor's caches."""
        self._sweep += 1

    def forget(self) -> None:
        """Drop the shards from the page cache."""
        drop(shard_files(self.root))

    def epoch(self, batch: int) -> None:
        """Leave the files in the page cache as an epoch does: shards by our store, the flat file by np.take."""
        drop(self.files)  # before anything maps them: what is mapped can't be dropped
        buffer = aligned_empty((batch, TOKENS, DIM), "float16")
        store = open_store(self.root / "store")
        self.an_epoch(_into(store, buffer), shard_files(self.root), batch)
        store.close()
        mm = np.memmap(flat_file(self.root), np.float16, "r", shape=self.latents.shape)
        self.an_epoch(lambda rows: np.take(mm, rows, axis=0, mode="clip"), [flat_file(self.root)], batch)

    def an_epoch(self, read: Read, files: Sequence[Path], batch: int) -> None:
        """Have a contender read all rows once, in batches of a random order, from files that the system forgot."""
        drop(files)
        order = np.random.default_rng(2).permutation(len(self.latents))
        for start in range(0, len(order), batch):
            read(order[start : start + batch])
        check_in_memory(files)

    def through(self) -> None:
        """Leave the files in the page cache as reading from end to end does."""
        drop(self.files)
        read_through(self.files)
        check_in_memory(self.files)

    def readers(self, batch: int) -> dict[str, Read]:
        """Return ourselves and the limits; what they read into used memory goes to the same memory."""
        buffer = aligned_empty((batch, TOKENS, DIM), "float16")
        return {**ours(self.root, buffer), **limits(self.root, len(self.latents), buffer)}

    def measure(self, readers: dict[str, Read], batch: int, before: Callable[[], None], rounds: int = 0) -> Samples:
        """Return GB/s of every contender in every round.

        What they read is compared in a round that doesn't count, and later by one row: large memory that comes and
        goes between readings halves them for a while in a virtual machine, whose host takes it and gives it back.
        """
        samples: Samples = {who: [] for who in readers}
        rng = np.random.default_rng(1)
        order, latents = list(readers), self.latents
        for who, read in readers.items():
            rows = rng.permutation(len(latents))[:batch]
            np.testing.assert_array_equal(read(rows), latents[rows], err_msg=who)
        for _ in range(rounds or self.rounds):
            rows = rng.permutation(len(latents))[:batch]
            rng.shuffle(order)
            for who in order:
                before()
                start = time.perf_counter()
                got = readers[who](rows)
                samples[who].append(got.nbytes / (time.perf_counter() - start) / 1e9)
                row = rng.integers(batch)
                np.testing.assert_array_equal(got[row], latents[rows[row]], err_msg=who)
                del got
        return samples


def ours(root: Path, buffer: Array) -> dict[str, Read]:
    """usjepa with one thread and two, checked and not, into fresh memory and into `buffer`."""
    found: dict[str, Read] = {}
    for name, store in {
        ONE: open_store(root / "store", threads=1),
        OURS: open_store(root / "store", threads=2),
        UNCHECKED: open_store(root / "store", threads=2, check_rows=False),
    }.items():
        found[name + FRESH] = _fresh(store)
        found[name + REUSED] = _into(store, buffer)
    return found


def _fresh(store: Store) -> Read:
    return lambda rows: store.read(rows, layers=[LAYER]).latents


def _into(store: Store, buffer: Array) -> Read:
    return lambda rows: store.read(rows, layers=[LAYER], out={LAYER: buffer}).latents
