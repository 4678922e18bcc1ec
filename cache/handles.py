"""Open shard files: a bounded set of descriptors, shared by the layers of a store, of one process.

A file in use is never closed under its reader; one that is dropped is opened afresh by whoever asks next.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usjepa.cache.storage import LocalStorage

MOST_OPEN = 16384
"""Most idle descriptors of a store. Where rows are drawn from more files than stay open, each costs an open: 60 us here
beside the 45 us of reading a ViT-B row, a round trip on a network share."""
_SHARE = 4
"""At most one in four of the descriptors that the process may have: 64 of 256, the fewest that systems allow."""


def most_open() -> int:
    """Return how many idle descriptors a store may keep in this process."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if allowed == resource.RLIM_INFINITY else max(1, min(MOST_OPEN, allowed // _SHARE))


@dataclass
class OpenFile:
    """An open shard file and how many threads are reading from it."""

    name: str
    handle: int
    size: int
    users: int = 0
    dropped: bool = False


class _Folder:
    """An open folder; closed when the last thread that opens a file in it has done so."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        weakref.finalize(self, os.close, handle).atexit = False


class Handles:
    """Lends open files by name and closes those longest unused. Folders stay open: a file is then found in one step."""

    def __init__(self, storage: LocalStorage, most: int | None = None) -> None:
        self._storage = storage
        self.most = most_open() if most is None else most
        """Idle files that are kept open."""
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._folders: dict[str, _Folder] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._files, os.getpid()).atexit = False

    def lend(self, name: str) -> OpenFile:
        """Return an open file; it stays open until it is given back. Raises OSError as the system does."""
        found = self.lend_open((name,))
        if found:
            return found[name]
        # Without the lock: on a network share an open is a round trip, for which the other threads need not wait.
        handle = self._open(name)
        made = OpenFile(name, handle, os.fstat(handle).st_size)
        with self._lock:
            file = self._files.setdefault(name, made)
            file.users += 1
        if file is not made:
            os.close(handle)
        return file

    def lend_open(self, names: Iterable[str]) -> dict[str, OpenFile]:
        """Return those files that are open already, by name; each is to be given back."""
        found = {}
        with self._lock:
            for name in names:
                file = self._files.get(name)
                if file is not None:
                    self._files.move_to_end(name)
                    file.users += 1
                    found[name] = file
        return found

    def _open(self, name: str) -> int:
        folder = name.rpartition("/")[0]
        place = self._folders.get(folder)
        if place is None:
            place = self._folders[folder] = _Folder(self._storage.open_folder(folder))
        return self._storage.open_in(place.handle, name)

    def give_back(self, *files: OpenFile) -> None:
        """Take lent files back."""
        with self._lock:
            for file in files:
                file.users -= 1
                if file.dropped and not file.users:
                    _close_afresh(file.handle)
            if len(self._files) > self.most:
                self._close_idle(self.most)

    def _close_idle(self, keep: int) -> None:
        excess = max(0, len(self._files) - keep)
        idle = islice((file for file in self._files.values() if not file.users), excess)  # the oldest come first
        for file in list(idle):
            os.close(self._files.pop(file.name).handle)

    def drop(self, name: str) -> None:
        """Forget a file and what the system cached of it, so that the next read asks the disk or share again."""
        with self._lock:
            self._folders.pop(name.rpartition("/")[0], None)
            file = self._files.pop(name, None)
            if file is None:
                return
            file.dropped = True
            if not file.users:
                _close_afresh(file.handle)

    def close(self) -> None:
        """Close every idle file and all folders."""
        with self._lock:
            self._close_idle(0)
            self._folders.clear()


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
