"""preadv into several buffers: first what lies in memory, then the rest, for which a disk or a share is waited for."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NOT_WAITING: int = getattr(os, "RWF_NOWAIT", 0)
"""preadv's flag: give what lies in memory and no more (Linux)."""
_CANT_TELL = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
"""How file systems and kernels say that they don't know that flag."""


class Preads:
    """Reads of one layer's files, which lie in one file system."""

    def __init__(self, blind: bool = False) -> None:
        self.blind = blind or not _NOT_WAITING
        """Whether nobody can tell what lies in memory, as with NFS."""

    @property
    def flags(self) -> int:
        """preadv's flags for reading what lies in memory, where that can be told."""
        return 0 if self.blind else _NOT_WAITING

    def what_is_there(self, handle: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Read as far as the bytes lie in memory, without waiting for a disk; return how many came."""
        if self.blind:
            return os.preadv(handle, buffers, offset)
        try:
            return os.preadv(handle, buffers, offset, _NOT_WAITING)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in _CANT_TELL:
                raise
            self.blind = True
            return 0

    def rest(self, handle: int, buffers: Sequence[memoryview], offset: int, got: int, wanted: int) -> int:
        """Go on with a read that stopped, or was cut short by a signal or a share, after `got` bytes; how many came."""
        while got < wanted:
            more = os.preadv(handle, _behind(buffers, got), offset + got)
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


def stretches(offsets: Sequence[int], nbytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) in bytes of pieces of `nbytes` each, those that follow one another without a gap as one."""
    start = stop = offsets[0]
    for offset in offsets:
        if offset != stop:
            yield start, stop
            start = offset
        stop = offset + nbytes
    yield start, stop
