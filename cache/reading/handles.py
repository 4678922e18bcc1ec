"""Open shard files: a bounded set of descriptors, shared by the layers of a store, of one process.

A file in use is never closed under its reader; one that is dropped is opened afresh by whoever asks next. The stores
that a process has open share three quarters of the descriptors that it may have; who needs few leaves the others more.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usjepa.cache.reading.grace import Grace
    from usjepa.cache.reading.shard_table import ShardTable
    from usjepa.cache.storage.local import LocalStorage

MOST_OPEN = 32768
"""Most idle descriptors of a process. Where rows are drawn from more files than stay open, each costs an open: 60 us
here beside the 45 us of reading a ViT-B row, a round trip on a network share."""
_FIRST = 16
"""Idle descriptors that a store may keep to begin with."""
_LEFT, _LEAST_LEFT = 0.25, 128
"""Share of the descriptors that the process may have, and their least number, that are left for everything else."""
RAISE_TO = 65536
"""Descriptors that a command asks for. Not all that the system would give, often millions: there are programs that
close every number up to the limit before they start another."""


def most_open() -> int:
    """Return how many idle descriptors the stores of this process may keep."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MOST_OPEN
    return max(1, min(MOST_OPEN, allowed - max(int(allowed * _LEFT), _LEAST_LEFT)))


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may by itself, to `RAISE_TO`.

    Systems start programs with 1,024 for the sake of `select`, which can't name more and which nothing here uses.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = RAISE_TO if most == resource.RLIM_INFINITY else min(RAISE_TO, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        # macOS names no limit and refuses more than it has: what was allowed before serves as well, only slower.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class _Sharing:
    """Who shares the descriptors of this process: the handles of every store that it has open."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Handles] = weakref.WeakSet()
        self._lock = threading.RLock()  # the garbage collector may call `share` in the middle of it

    def join(self, handles: Handles) -> None:
        """Count one more."""
        with self._lock:
            self._all.add(handles)
        self.share_and_close()
        weakref.finalize(handles, self.share).atexit = False

    def share(self) -> None:
        """Tell each how many idle files it may keep: twice what it has, or its part of what those leave who need less.

        Nothing is closed here: the garbage collector calls this while any lock may be held.
        """
        with self._lock:
            known, allowed = list(self._all), most_open()
            equal = max(1, allowed // max(1, len(known)))
            wanted = {h: max(_FIRST, 2 * h.kept) for h in known}
            many = [h for h in known if wanted[h] >= equal]
            left = allowed - sum(wanted[h] for h in known if wanted[h] < equal)
            for handles in known:
                handles.most = max(1, left // len(many)) if wanted[handles] >= equal else wanted[handles]

    def share_and_close(self) -> None:
        """Share anew, as whoever has reached its number asks for; the others close what is then too many."""
        self.share()
        with self._lock:
            known = list(self._all)
        for handles in known:
            handles.close_beyond()

    def start_afresh(self) -> None:
        """Close, in a forked child, what its parent had open: the child opens files of its own, within one limit."""
        inherited, self._all, self._lock = list(self._all), weakref.WeakSet(), threading.RLock()
        for handles in inherited:
            handles.close_inherited()


_sharing = _Sharing()
os.register_at_fork(after_in_child=_sharing.start_afresh)


@dataclass(slots=True)
class OpenFile:
    """An open shard file."""

    name: str
    handle: int
    size: int
    table: ShardTable
    """Where the compiled loop finds it ..."""
    shard: int
    """... and of which shard it is."""
    users: int = 0
    """Threads that it is lent to."""
    dropped: bool = False

    def __post_init__(self) -> None:
        self.table.files[self.shard] = self.handle + 1

    def hide(self) -> None:
        """Take the file out of the table, unless one opened later is in its place."""
        if self.table.files[self.shard] == self.handle + 1:
            self.table.files[self.shard] = 0


class _Folder:
    """An open folder; closed when the last thread that opens a file in it has done so."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        weakref.finalize(self, os.close, handle).atexit = False


class Handles:
    """Lends open files by name and closes those longest unused. Folders stay open: a file is then found in one step.

    The compiled loop takes files from a `ShardTable` without asking: none is closed before the runs of the loop that
    may have found it there have ended.
    """

    def __init__(self, storage: LocalStorage, grace: Grace, most: int | None = None) -> None:
        """`most` idle files are kept open; None: this store's part of what the process may have."""
        self._storage, self._grace = storage, grace
        self.most = most or 1
        """Idle files that are kept open."""
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._folders: dict[str, _Folder] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._files, os.getpid()).atexit = False
        self._shared = most is None
        if self._shared:
            _sharing.join(self)

    def lend(self, name: str, table: ShardTable, shard: int) -> OpenFile:
        """Return an open file, now in the table too; it stays open until it is given back.

        Raises OSError as the system does.
        """
        with self._lock:
            file = self._files.get(name)
            if file is not None:
                self._files.move_to_end(name)
                file.users += 1
                return file
        self._grace.wait_for_room()
        # Without the lock: on a network share an open is a round trip, for which the other threads need not wait.
        handle = self._open(name)
        size = os.fstat(handle).st_size
        with self._lock:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = OpenFile(name, handle, size, table, shard)
            file.users += 1
        if file.handle != handle:
            os.close(handle)
        return file

    def give_back(self, file: OpenFile) -> None:
        """Take a lent file back."""
        with self._lock:
            file.users -= 1
            if file.dropped and not file.users:
                self._let_go(file)
        self.keep()

    def _open(self, name: str) -> int:
        folder = name.rpartition("/")[0]
        place = self._folders.get(folder)
        if place is None:
            place = self._folders[folder] = _Folder(self._storage.open_folder(folder))
        return self._storage.open_in(place.handle, name)

    @property
    def kept(self) -> int:
        """Files that are open."""
        return len(self._files)

    def keep(self) -> None:
        """Close all idle files but those used last, as many as this store may keep."""
        if len(self._files) > self.most and self._shared:
            _sharing.share_and_close()
        self.close_beyond()

    def close_beyond(self) -> None:
        """Close idle files beyond as many as this store may keep, those longest unused."""
        if len(self._files) > self.most:
            with self._lock:
                self._close_idle(self.most)

    def _close_idle(self, keep: int) -> None:
        """Close files in the order of their use; those that the compiled loop has used, which keeps no order, later."""
        chances = 2 * len(self._files)
        while len(self._files) > keep and chances:
            chances -= 1
            name, file = next(iter(self._files.items()))
            if file.users or file.table.used[file.shard]:
                file.table.used[file.shard] = 0
                self._files.move_to_end(name)
            else:
                self._let_go(self._files.pop(name))

    def _let_go(self, file: OpenFile) -> None:
        file.hide()
        self._grace.retire(partial(os.close, file.handle))

    def drop(self, name: str) -> None:
        """Forget a file and what the system cached of it, so that the next read asks the disk or share again."""
        with self._lock:
            self._folders.pop(name.rpartition("/")[0], None)
            file = self._files.pop(name, None)
            if file is None:
                return
            if hasattr(os, "posix_fadvise"):
                with contextlib.suppress(OSError):  # a stale handle; it is closed all the same
                    os.posix_fadvise(file.handle, 0, 0, os.POSIX_FADV_DONTNEED)
            file.dropped = True
            file.hide()
            if not file.users:
                self._let_go(file)

    def close(self) -> None:
        """Close every idle file and all folders."""
        with self._lock:
            self._close_idle(0)
            self._folders.clear()

    def close_inherited(self) -> None:
        """Close everything in a forked child, whose parent's threads, that may have been using it, are not there."""
        self._lock = threading.Lock()
        self._grace.start_afresh()
        for file in self._files.values():
            os.close(file.handle)
        self._files.clear()
        self._folders.clear()


def _close_all(files: OrderedDict[str, OpenFile], process: int) -> None:
    """Close what a reader that is gone left open; a forked child leaves its parent's numbers alone."""
    if os.getpid() == process:
        for file in files.values():
            os.close(file.handle)
