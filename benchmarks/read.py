"""Random-batch reads of fp16 ViT-B latents: usjepa beside the limit (np.memmap, bare pread) and its peers.

    python -m benchmarks.read [--rows 1024] [--batch 64] [--large 256] [--rounds 41] [--folder DIR]

Every contender reads the same rows in the same order from a warm page cache; which comes first is drawn anew each
round, and before each the processor's caches are swept, as in training, where a batch was last touched an epoch ago.
The table gives min | median | max over rounds in GB/s of latents; ratios are medians over rounds. Large batches, for
which what a batch costs by itself matters less, are read by ourselves and the limits only. The cold part asks the
system to drop the shards from its page cache before each read (posix_fadvise). The busy part has a thread that counts
in Python beside the reads, as a training loop's may be. Peers come last, with ourselves and np.take once more: threads
that they leave behind take turns with whoever is measured after them.
"""

from __future__ import annotations

import argparse
import os
import queue
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from xxhash import xxh3_64

from benchmarks.machine import SWEEP_NBYTES, Goal, describe, report
from benchmarks.read_peers import Read, open_peers
from usjepa.cache.buffers import BatchMemory, aligned_empty
from usjepa.cache.layers import Layer
from usjepa.cache.storage import LocalStorage
from usjepa.cache.store import Store, open_store
from usjepa.cache.tables import RowTable, SourceTable
from usjepa.cache.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable

Samples = dict[str, list[float]]
"""Contender -> GB/s in every round."""
TOKENS, DIM, ROWS_PER_SHARD = 196, 768, 256
LAYER = "latents/vitb"
PACKAGES = ("numpy", "xxhash", "zarr", "zarrs", "tensorstore", "h5py", "datasets", "mosaicml-streaming", "safetensors")
BESIDE = ", beside peers"
BUSY = "beside a thread busy in Python: "
OURS, UNCHECKED, ONE = "usjepa, 2 threads", "usjepa, 2 threads, unchecked", "usjepa, 1 thread"
FRESH, REUSED = ", fresh memory", ", reused memory"
MM, TAKE, BARE = "np.memmap mm[rows]", "np.take(mm, rows, out=buffer)", "bare pread, 2 threads"
HASHED = "bare pread + xxh3, 2 threads"
"""What Python can do without an mmap: the same system calls and hashes, and no store around them."""
LOOP, LOOP_UNCHECKED = "compiled loop alone, 2 threads", "compiled loop alone, 2 threads, unchecked"
"""All that a read can be without an mmap: the same system calls and hashes in machine code."""
PLAIN = "np.take(mm, rows, out=np.empty's memory)"
"""What most people would write; the goal is set by `TAKE`, whose buffer begins at a multiple of 64 as ours do."""


def make(root: Path, rows: int) -> np.ndarray:
    """Write the store and its flat twin; return the rows."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((rows, TOKENS, DIM), dtype=np.float32).astype(np.float16)
    layer = Layer(LAYER, "float16", (TOKENS, DIM), ROWS_PER_SHARD, {"benchmark": "read"})
    text = np.array(["x"] * rows, dtype=object)
    one = np.ones(rows, np.int32)
    writer = StoreWriter(LocalStorage(root / "store"))
    writer.open(ROWS_PER_SHARD)
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
    latents.tofile(root / "flat.bin")
    return latents


def ours(root: Path) -> dict[str, Read]:
    """usjepa with one thread and two, checked and not, into fresh and into reused memory."""
    found: dict[str, Read] = {}
    for name, store in {
        ONE: open_store(root / "store", threads=1),
        OURS: open_store(root / "store", threads=2),
        UNCHECKED: open_store(root / "store", threads=2, check_rows=False),
    }.items():
        found[name + FRESH] = lambda rows, s=store: s.read(rows, layers=[LAYER]).latents
        found[name + REUSED] = _into(store, BatchMemory())
    return found


def _into(store: Store, memory: BatchMemory) -> Read:
    wanted = {LAYER: store.layers[LAYER]}
    return lambda rows: store.read(rows, layers=[LAYER], out=memory.arrays(wanted, len(rows))).latents


def large_batches(root: Path, latents: np.ndarray, batch: int, rounds: int, before: Callable[[], None]) -> Samples:
    """GB/s of large batches."""
    readers = {**ours(root), **limits(root, len(latents), batch)}
    return measure(readers, latents, batch, rounds, before)


def limits(root: Path, rows: int, batch: int) -> dict[str, Read]:
    """What the machine can do: a memmap read three ways, and preads of the store's own bytes, hashed and not."""
    mm = np.memmap(root / "flat.bin", np.float16, "r", shape=(rows, TOKENS, DIM))
    buffer, plain = aligned_empty((batch, TOKENS, DIM), np.float16), np.empty((batch, TOKENS, DIM), np.float16)
    return {
        MM: lambda wanted: np.asarray(mm[wanted]),
        TAKE: lambda wanted: np.take(mm, wanted, axis=0, out=buffer, mode="clip"),
        PLAIN: lambda wanted: np.take(mm, wanted, axis=0, out=plain, mode="clip"),
        BARE: bare_pread(root, batch),
        HASHED: bare_pread(root, batch, hashed=True),
        LOOP: bare_loop(root, batch, rows, check_rows=True),
        LOOP_UNCHECKED: bare_loop(root, batch, rows, check_rows=False),
    }


class Pair:
    """This thread and one more, at the same time: not an executor, whose futures take longer than 64 rows."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._calls.get()()
            self._done.put(None)

    def run(self, mine: Callable[[], object], other: Callable[[], object]) -> None:
        self._calls.put(other)
        mine()
        self._done.get()


def bare_pread(root: Path, batch: int, hashed: bool = False) -> Read:
    """Two threads, half of the rows each, nothing but pread of the rows' bytes in the shards, and xxh3 of them."""
    layer = open_store(root / "store").layers[LAYER]
    files = [os.open(path, os.O_RDONLY) for path in shard_files(root)]
    buffer = aligned_empty((batch, TOKENS, DIM), np.float16)
    flat, nbytes, pair = buffer.reshape(-1).view(np.uint8).data, layer.row_nbytes, Pair()

    def share(places: range, rows: list[int]) -> None:
        for place in places:
            shard, slot = divmod(rows[place], ROWS_PER_SHARD)
            data = flat[place * nbytes : (place + 1) * nbytes]
            os.preadv(files[shard], [data], slot * layer.layout.slot_nbytes)
            if hashed:
                hasher = xxh3_64()
                hasher.update(data)  # lets go of the interpreter's lock, as the one-shot function does not
                hasher.intdigest()

    def read(rows: np.ndarray) -> np.ndarray:
        numbers = rows.tolist()
        pair.run(lambda: share(range(0, len(numbers), 2), numbers), lambda: share(range(1, len(numbers), 2), numbers))
        return buffer[: len(rows)]

    return read


def bare_loop(root: Path, batch: int, rows: int, check_rows: bool) -> Read:
    """The compiled loop in two threads, of a store whose files are open, and no store around it."""
    store = open_store(root / "store", check_rows=check_rows)
    for start in range(0, rows, batch):
        store.read(range(start, min(start + batch, rows)), layers=[LAYER])
    reader, buffer, pair = store._own.get().readers[LAYER], aligned_empty((batch, TOKENS, DIM), np.float16), Pair()

    def read(wanted: np.ndarray) -> np.ndarray:
        loop = reader.loop(wanted, buffer)
        if loop is None:
            raise SystemExit("There is no compiled loop on this system.")
        pair.run(lambda: loop.run(0), lambda: loop.run(0))
        return buffer[: len(wanted)]

    return read


def shard_files(root: Path) -> list[Path]:
    return sorted((root / "store" / LAYER).glob("c.*"), key=lambda path: int(path.name.split(".")[1]))


def measure(
    readers: dict[str, Read], latents: np.ndarray, batch: int, rounds: int, before: Callable[[], None]
) -> Samples:
    """Return GB/s of every contender in every round.

    What they read is compared in a round that doesn't count, and later by one row: large memory that comes and goes
    between readings halves them for a while in a virtual machine, whose host takes it and gives it back.
    """
    samples: Samples = {who: [] for who in readers}
    rng = np.random.default_rng(1)
    order = list(readers)
    for who, read in readers.items():
        rows = rng.permutation(len(latents))[:batch]
        np.testing.assert_array_equal(read(rows), latents[rows], err_msg=who)
    for _ in range(rounds):
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


def beside_python(readers: dict[str, Read], latents: np.ndarray, batch: int, rounds: int) -> Samples:
    """GB/s while another thread counts, which gives up the interpreter's lock every 5 ms and not before."""
    over = False

    def count() -> None:
        number = 0
        while not over:
            number += 1

    busy = threading.Thread(target=count)
    busy.start()
    try:
        return measure(readers, latents, batch, rounds, lambda: None)
    finally:
        over = True
        busy.join()


def drop_from_page_cache(root: Path) -> None:
    for path in shard_files(root):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def memory_goals(warm: Samples, named: str = "") -> list[Goal]:
    """What a batch was promised to take, by the kind of memory it goes to."""
    limit = max((warm[MM], warm[TAKE]), key=np.median)
    found = []
    for memory in (FRESH, REUSED):
        mine = warm[OURS + memory]
        found += [
            Goal(f"{named}checked{memory} / faster of mm[rows], np.take", mine, limit, 1.0),
            Goal(f"{named}unchecked{memory} / faster of mm[rows], np.take", warm[UNCHECKED + memory], limit, 1.1),
            Goal(f"{named}2 threads / 1 thread{memory}", mine, warm[ONE + memory], None),
        ]
    found.append(Goal(f"{named}checked, fresh memory / {MM}, which is fresh too", warm[OURS + FRESH], warm[MM], None))
    for other in (PLAIN, HASHED, LOOP):
        found.append(Goal(f"{named}checked, reused memory / {other}", warm[OURS + REUSED], warm[other], None))
    for bare in (BARE, HASHED, LOOP, LOOP_UNCHECKED):
        found.append(Goal(f"{named}{bare} / faster of mm[rows], np.take", warm[bare], limit, None))
    return found


def goals(warm: Samples, large: Samples, named: str, beside: Samples, cold: Samples, busy: Samples) -> list[Goal]:
    """The figures that were promised, as ratios of one round's readings."""
    zarr = max((w for w in beside if w.startswith("zarr-python")), key=lambda w: np.median(beside[w]), default=None)
    found = [*memory_goals(warm), *memory_goals(large, named)]
    for peer, least in (("TensorStore", 3.0), (zarr, 5.0)):
        if peer in beside:
            found.append(Goal(f"checked, fresh memory / {peer}", beside[OURS + FRESH], beside[peer], least))
    ours_cold = OURS + REUSED
    found.append(Goal("cold: checked, reused memory / bare pread", cold[ours_cold], cold[BARE], 0.9))
    for other in (TAKE, HASHED):
        found.append(Goal(f"{BUSY}checked, reused memory / {other}", busy[ours_cold], busy[other], None))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--large", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument(
        "--folder", type=Path, help="where to write the data; the file system is part of what is measured"
    )
    args = parser.parse_args()
    sweep = np.zeros(SWEEP_NBYTES // 8)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        latents = make(root, args.rows)
        mine, bare = ours(root), limits(root, args.rows, args.batch)
        warm = measure({**mine, **bare}, latents, args.batch, args.rounds, lambda: sweep.__iadd__(1))
        large = large_batches(root, latents, args.large, args.rounds, lambda: sweep.__iadd__(1))
        pair = {OURS + REUSED: mine[OURS + REUSED], BARE: bare[BARE]}
        cold = measure(pair, latents, args.batch, args.rounds, lambda: drop_from_page_cache(root))
        some = {**pair, TAKE: bare[TAKE], HASHED: bare[HASHED]}
        busy = beside_python(some, latents, args.batch, max(3, args.rounds // 4))
        peers, missing = open_peers(root / "store", latents)
        peers = {OURS + FRESH: mine[OURS + FRESH], TAKE: bare[TAKE], **peers}
        beside = measure(peers, latents, args.batch, args.rounds, lambda: sweep.__iadd__(1))
    note = f"{args.batch} random rows of {args.rows}, fp16 [{TOKENS}, {DIM}]; page cache warm, processor caches swept"
    named = f"{args.large} rows: "
    samples = {**warm, **{named + who: values for who, values in large.items()}}
    samples |= {f"cold: {who}": values for who, values in cold.items()}
    samples |= {BUSY + who: values for who, values in busy.items()}
    samples |= {f"{who}{BESIDE if who in warm else ''}": values for who, values in beside.items()}
    packages = (
        "zarr",
        "zarrs",
        "tensorstore",
        "h5py",
        "datasets",
        "mosaicml-streaming",
        "safetensors",
        "annbatch",
        "numba",
        "numpy",
        "xxhash",
    )
    report("read", "GB/s", samples, describe(packages), note, goals(warm, large, named, beside, cold, busy), missing)


if __name__ == "__main__":
    main()
