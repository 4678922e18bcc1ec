"""Measure the place of a future store: sustained durable writes and cold random reads."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.storage.durable import write_durably

if TYPE_CHECKING:
    from pathlib import Path

_FILE_NBYTES = 64 << 20
"""About a shard: the size that is written and fsynced at once."""
_MOST_NBYTES = 1 << 30
"""Enough to see a disk behind its cache, little beside a store."""
_SHARE_OF_ROOM = 0.1
_READS_AT_MOST = 4000


@dataclass(frozen=True)
class TargetRates:
    """Bytes per second."""

    write: float
    """Whole files written, fsynced and renamed one after another, as shards are."""
    read: float
    """Rows read at random places of files that were dropped from the page cache, by one thread."""
    written: int
    """Bytes that the figure for writing rests on."""


def measure_target(folder: Path, row_nbytes: int, free: int, seconds: float) -> TargetRates:
    """Write files into a folder, then read rows of them at random.

    Args:
        folder: an empty folder on the target; the caller removes it.
        row_nbytes: bytes of a read.
        free: bytes that are free there; a tenth is used at most.
        seconds: for writing, and for reading again.
    """
    block = np.random.default_rng(0).bytes(min(_FILE_NBYTES, max(row_nbytes, int(free * _SHARE_OF_ROOM / 2))))
    most = min(_MOST_NBYTES, int(free * _SHARE_OF_ROOM))
    files: list[Path] = []
    start = time.perf_counter()
    while len(files) < 2 or (time.perf_counter() - start < seconds and (len(files) + 1) * len(block) <= most):
        safe_point()
        files.append(folder / f"{len(files)}.bin")
        write_durably(files[-1], block)
    written, took = len(files) * len(block), time.perf_counter() - start
    return TargetRates(written / took, _read_rate(files, len(block), row_nbytes, seconds), written)


def _read_rate(files: list[Path], size: int, row_nbytes: int, seconds: float) -> float:
    handles = [os.open(file, os.O_RDONLY) for file in files]
    try:
        for handle in handles:
            if hasattr(os, "posix_fadvise"):  # not on macOS: the figure is then that of the page cache
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        slots = [(file, row) for file in range(len(files)) for row in range(max(size // row_nbytes, 1))]
        order = np.random.default_rng(1).permutation(len(slots))[:_READS_AT_MOST]
        done, start = 0, time.perf_counter()
        for i in order:
            safe_point()
            file, row = slots[i]
            done += len(os.pread(handles[file], row_nbytes, row * row_nbytes))
            if time.perf_counter() - start > seconds:
                break
        return done / (time.perf_counter() - start)
    finally:
        for handle in handles:
            os.close(handle)
