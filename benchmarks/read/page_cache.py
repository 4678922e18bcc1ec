"""Brings files into the system's page cache in a stated way: which way decides how fast they are read from it.

Linux keeps what a stream reads in stretches of up to 2 MiB (large folios), and what is read here and there page by
page. Of the same bytes, all in memory, `pread` copies more than twice as many a second from the former.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_STREAM_NBYTES = 1 << 20
_APART = 0.02
"""Share of the bytes that may be elsewhere: tables that are read once, pages that are just being written."""


def drop(files: Sequence[Path]) -> None:
    """Have the system forget files; raises SystemExit where it keeps them, as it does while they are mapped."""
    for path in files:
        with _opened(path) as handle:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    if files and in_memory(files) > _APART:
        raise SystemExit(f"{files[0].parent}: the system keeps {in_memory(files):.0%} in memory, asked to drop it.")


def read_through(files: Sequence[Path]) -> None:
    """Read files from end to end, as `cp` and `usjepa-cache verify` do."""
    for path in files:
        with _opened(path) as handle:
            for start in range(0, os.fstat(handle).st_size, _STREAM_NBYTES):
                os.pread(handle, _STREAM_NBYTES, start)


def check_in_memory(files: Sequence[Path]) -> None:
    """Raise SystemExit unless files lie in memory, all but the little that nobody reads."""
    found = in_memory(files)
    if found < 1 - _APART:
        raise SystemExit(f"{found:.0%} of {files[0].parent} lies in memory: too little memory for this.")


def in_memory(files: Sequence[Path]) -> float:
    """Return the share of files' pages that lie in memory, without bringing any there."""
    pages = [_pages(path) for path in files if path.stat().st_size]
    return float(np.concatenate(pages).mean()) if pages else 1.0


def _pages(path: Path) -> np.ndarray:
    """Return for each page of a file whether it is there."""
    file = np.memmap(path, np.uint8, "r")
    pages = np.zeros(-(-file.size // mmap.PAGESIZE), np.uint8)
    # Not preadv2 with RWF_NOWAIT: it starts reading what is not there.
    if _LIBC.mincore(ctypes.c_void_p(file.ctypes.data), ctypes.c_size_t(file.size), ctypes.c_void_p(pages.ctypes.data)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return pages & 1


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)
