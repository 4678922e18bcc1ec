"""Open plain files only, since pipes and devices may be waited for without end."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def require_plain(file: Path) -> None:
    """Raise OSError, with what it is, unless a path leads to a plain file; nothing is opened."""
    _require(file.stat().st_mode, file)


def open_plain(file: Path) -> FileIO:
    """Return a plain file opened for reading, unbuffered; OSError for anything else, also one just put in its place."""
    require_plain(file)  # some devices act on being opened
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is then opened without waiting
    try:
        _require(os.fstat(handle).st_mode, file)
        return os.fdopen(handle, "rb", buffering=0)
    except BaseException:
        os.close(handle)
        raise


def _require(mode: int, file: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(file))
