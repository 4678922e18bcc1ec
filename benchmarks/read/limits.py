"""What the machine can do at most when a batch is read: a memmap three ways, and the store's own bytes bare."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING

import numpy as np
from xxhash import xxh3_64

from usjepa.cache.reading.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.read.peers import Array, Read

TOKENS, DIM, ROWS_PER_SHARD = 196, 768, 256
LAYER = "latents/vitb"
MM, TAKE, BARE = "np.memmap mm[rows]", "np.take(mm, rows, out=buffer)", "bare pread, 2 threads"
HASHED = "bare pread + xxh3, 2 threads"
"""What Python can do without an mmap: the same system calls and hashes, and no store around them."""
PLAIN = "np.take(mm, rows, out=np.empty's memory)"
"""What most people would write; `TAKE` has a buffer that begins at a multiple of 64, as ours do."""


def limits(root: Path, rows: int, buffer: Array) -> dict[str, Read]:
    """Return the limits of a store of `rows` rows and of its flat twin, into the batch's memory `buffer`."""
    mm = np.memmap(flat_file(root), np.float16, "r", shape=(rows, TOKENS, DIM))
    plain = np.empty_like(buffer)
    return {
        MM: lambda wanted: np.asarray(mm[wanted]),
        TAKE: lambda wanted: np.take(mm, wanted, axis=0, out=buffer, mode="clip"),
        PLAIN: lambda wanted: np.take(mm, wanted, axis=0, out=plain, mode="clip"),
        BARE: _bare_pread(root, buffer),
        HASHED: _bare_pread(root, buffer, hashed=True),
    }


def flat_file(root: Path) -> Path:
    """Return the rows' bytes one after another, which the memmap reads."""
    return root / "flat.bin"


def shard_files(root: Path) -> list[Path]:
    return sorted((root / "store" / LAYER).glob("c.*"), key=lambda path: int(path.name.split(".")[1]))


class _Pair:
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


def _bare_pread(root: Path, buffer: Array, hashed: bool = False) -> Read:
    """Two threads, half of the rows each, nothing but pread of the rows' bytes in the shards, and xxh3 of them."""
    layer = open_store(root / "store").layers[LAYER]
    files = [os.open(path, os.O_RDONLY) for path in shard_files(root)]
    flat, nbytes, pair = buffer.reshape(-1).view(np.uint8).data, layer.row_nbytes, _Pair()

    def share(places: range, rows: list[int]) -> None:
        for place in places:
            shard, slot = divmod(rows[place], ROWS_PER_SHARD)
            data = flat[place * nbytes : (place + 1) * nbytes]
            os.preadv(files[shard], [data], slot * layer.layout.slot_nbytes)
            if hashed:
                hasher = xxh3_64()
                hasher.update(data)  # lets go of the interpreter's lock, as the one-shot function does not
                hasher.intdigest()

    def read(rows: Array) -> Array:
        numbers = rows.tolist()
        pair.run(lambda: share(range(0, len(numbers), 2), numbers), lambda: share(range(1, len(numbers), 2), numbers))
        return buffer[: len(rows)]

    return read
