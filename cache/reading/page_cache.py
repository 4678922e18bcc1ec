"""Tell what lies in memory from what a disk must fetch, and ask for the latter ahead of time.

A thread waits for one row at a time. From memory that costs nothing; a disk or a network share answers several
requests in hardly more time than one. So when a row turns out not to lie in memory, the system is asked to fetch the
whole batch, and the threads find the rest there or on its way.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOT_WAITING: int = getattr(os, "RWF_NOWAIT", 0)
"""preadv's flag: give what lies in memory and no more (Linux); 0 where there is none."""
CANT_TELL = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
"""How file systems and kernels say that they don't know that flag."""


def ask_for(file: int, offsets: Sequence[int], nbytes: int) -> None:
    """Ask the system to fetch pieces of `nbytes` each, without waiting. Nothing is promised."""
    # Whatever is wrong here, the read itself meets again and raises.
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            for start, stop in _stretches(offsets, nbytes):
                os.posix_fadvise(file, start, stop - start, os.POSIX_FADV_WILLNEED)


def read_waiting(file: int, buffers: Sequence[memoryview], offset: int, wanted: int) -> int:
    """Fill buffers, waiting for the disk and going on where a read is cut short; return how many bytes came."""
    got = 0
    while got < wanted:
        more = os.preadv(file, _behind(buffers, got), offset + got)
        if not more:
            break  # the file ends here
        got += more
    return got


def _behind(buffers: Sequence[memoryview], done: int) -> list[memoryview]:
    """Return what is left of buffers when their first `done` bytes are filled."""
    left = []
    for buffer in buffers:
        skipped = min(done, len(buffer))
        done -= skipped
        if skipped < len(buffer):
            left.append(buffer[skipped:])
    return left


def _stretches(offsets: Sequence[int], nbytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) in bytes of pieces of `nbytes` each, those that follow one another without a gap as one."""
    start = stop = offsets[0]
    for offset in offsets:
        if offset != stop:
            yield start, stop
            start = offset
        stop = offset + nbytes
    yield start, stop
