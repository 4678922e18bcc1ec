"""Open shard files: a bounded set of descriptors, shared by the layers of a store, of one process.

A file in use is never closed under its reader; one that is dropped is opened afresh by whoever asks next.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usjepa.cache.storage import LocalStorage

OPEN_FILES = 64
"""Most idle descriptors of a store; a process is allowed 256 on some systems."""


@dataclass
class OpenFile:
    """An open shard file and how many threads are reading from it."""

    name: str
    handle: int
    size: int
    users: int = 0
    dropped: bool = False


class Handles:
    """Lends open files by name and closes those longest unused."""

    def __init__(self, storage: LocalStorage, most: int = OPEN_FILES) -> None:
        self._storage = storage
        self._most = most
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._files, os.getpid()).atexit = False

    def lend(self, name: str) -> OpenFile:
        """Return an open file; it stays open until it is given back. Raises OSError as the system does."""
        with self._lock:
            file = self._files.get(name)
            if file is None:
                handle = self._storage.open(name)
                file = self._files[name] = OpenFile(name, handle, os.fstat(handle).st_size)
            else:
                self._files.move_to_end(name)
            file.users += 1
            return file

    def give_back(self, file: OpenFile) -> None:
        """Take a lent file back."""
        with self._lock:
            file.users -= 1
            if file.dropped:
                if not file.users:
                    _close_afresh(file.handle)
            elif len(self._files) > self._most:
                self._close_idle(self._most)

    def _close_idle(self, keep: int) -> None:
        idle = [file for file in self._files.values() if not file.users]
        for file in idle[: max(0, len(self._files) - keep)]:
            os.close(self._files.pop(file.name).handle)

    def drop(self, name: str) -> None:
        """Forget a file and what the system cached of it, so that the next read asks the disk or share again."""
        with self._lock:
            file = self._files.pop(name, None)
            if file is None:
                return
            file.dropped = True
            if not file.users:
                _close_afresh(file.handle)

    def close(self) -> None:
        """Close every idle file."""
        with self._lock:
            self._close_idle(0)


def _close_afresh(handle: int) -> None:
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # a stale handle; it is closed all the same
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def _close_all(files: OrderedDict[str, OpenFile], process: int) -> None:
    """Close what a reader that is gone left open; a forked child leaves its parent's numbers alone."""
    if os.getpid() == process:
        for file in files.values():
            os.close(file.handle)
