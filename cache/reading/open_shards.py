"""Keep a layer's most recently used shards open, within a share of the process's descriptors.

An open shard is a descriptor, the offsets of its rows and their hashes. A batch pins the shards that it reads by
holding references to them. What is let go of here is out of sight at once, and closed once no batch holds it any more:
by Python's own counting of references a file is closed neither too early nor, where a batch was interrupted, never.
Every layer that is read has an equal share of the descriptors that the process may use; one of few shards leaves to the
others what it does not need.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import resource
import threading
import weakref
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.storage.local import LocalStorage
    from usjepa.cache.store.shard import Trailer

MOST_OPEN = 32768
"""Most shard files that a process keeps open. Where rows are drawn from more, each costs an open: 60 us here beside the
45 us of reading a ViT-B row, a round trip on a network share."""
_LEFT, _LEAST_LEFT = 0.25, 128
"""Share of the descriptors that the process may have, and their least number, that are left for everything else."""
_FileT = TypeVar("_FileT", bound="_OpenFile")
_HASHES_NBYTES = 32 << 20
"""Bytes of row hashes that a layer's open shards keep: those of 4 million rows."""
_SPARE = 8
"""A share of one in so many is closed at a time, so that finding the shards longest unused costs little per file."""


def most_open() -> int:
    """Return how many shard files the stores of this process may keep open."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MOST_OPEN
    return max(1, min(MOST_OPEN, allowed - max(int(allowed * _LEFT), _LEAST_LEFT)))


class _OpenFile:
    """An open file or folder: `number` is its descriptor, -1 on an object storage."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        self.number = number


class OpenShard(_OpenFile):
    """A shard whose end has been read."""

    __slots__ = ("hashes", "offsets", "size", "used")

    offsets: NDArray[np.int64]
    """[rows] byte offset of each row's slot, -1 for a hole."""
    hashes: NDArray[np.uint64]
    """[rows] `row_hash` of each row's slot."""

    def __init__(self, number: int, size: int) -> None:
        """`size` in bytes; offsets and hashes follow with `describe`."""
        super().__init__(number)
        self.size = size
        self.used = 0
        """The turn in which a batch last pinned it."""

    def describe(self, trailer: Trailer) -> None:
        """Take over what the shard's end says of its rows."""
        self.offsets, self.hashes = trailer.offsets, trailer.hashes


class OpenShards:
    """The open shards of one layer, of one process; its threads share them."""

    def __init__(self, shard_rows: int, on_disk: bool, shards: int) -> None:
        """Hold none of a layer's `shards` yet.

        `shard_rows` rows of a shard bound what is kept in bytes, descriptors do where shards are files on a disk.
        """
        self._most_by_memory = max(1, _HASHES_NBYTES // (8 * shard_rows))
        self.wanted = max(1, min(self._most_by_memory, shards))
        """Descriptors that are of use."""
        self._on_disk, self._most = on_disk, 0
        self._held: dict[int, OpenShard] = {}
        self._folder: _OpenFile | None = None
        self._turn = 0
        self._lock = threading.Lock()
        self._files: dict[weakref.ref[_OpenFile], int] = {}
        """Descriptors that are to be closed once nobody holds their `_OpenFile` any more ..."""
        self._unused: list[weakref.ref[_OpenFile]] = []
        """... and which of them nobody holds."""
        weakref.finalize(self, _close_all, self._files).atexit = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def most(self) -> int:
        """Shards that may stay open, as of when one was last opened."""
        return self._most or self._new_most()

    def _new_most(self) -> int:
        most = self._most_by_memory
        self._most = min(most, _sharing.share_of(self)) if self._on_disk else most
        return self._most

    def open_file(self, storage: LocalStorage, name: str) -> OpenShard:
        """Open a shard's file, whose end is yet to be read; raises OSError as the system does, and StoreError."""
        self.close_unused()
        folder = self._folder  # stays open: a file is then found in one step
        if folder is None:
            folder = self._folder = self._own(_OpenFile(storage.open_folder(name.rpartition("/")[0])))
        number = storage.open_in(folder.number, name)
        return self._own(OpenShard(number, os.fstat(number).st_size))

    def _own(self, file: _FileT) -> _FileT:
        # The callback is C: no Ctrl-C can come in the middle of it, as it could in a method `__del__`, and be lost.
        self._files[weakref.ref(file, self._unused.append)] = file.number
        return file

    def close_unused(self) -> None:
        """Close what was let go of and no batch holds any more; a batch that ends does so, as no other may follow."""
        with contextlib.suppress(IndexError):  # another thread took the last one
            while self._unused:
                os.close(self._files.pop(self._unused.pop()))

    def pinned(self, shards: Sequence[int]) -> list[OpenShard | None]:
        """Return the open ones among shards, which stay open at least as long as the list; None for the others."""
        self._turn += 1  # of threads at once both may count one: a turn only says which shards were used of late
        found = list(map(self._held.get, shards))
        for shard in found:
            if shard is not None:
                shard.used = self._turn
        return found

    def add(self, number: int, shard: OpenShard) -> OpenShard:
        """Keep an open shard and return it, or the one that another thread has opened meanwhile."""
        with self._lock:
            kept = self._held.setdefault(number, shard)
            kept.used = self._turn
        self.trim()
        return kept

    def trim(self) -> None:
        """Let go of the shards longest unused where there are more than may stay open."""
        most = self._new_most()
        if len(self._held) > most:
            with self._lock:
                surplus = len(self._held) - most + most // _SPARE
                for number in heapq.nsmallest(surplus, self._held, key=lambda number: self._held[number].used):
                    del self._held[number]
            self.close_unused()

    def drop(self, number: int) -> None:
        """Forget a shard and what the system cached of it, so that the next read asks the disk or share again."""
        with self._lock:
            shard, self._folder = self._held.pop(number, None), None
        if shard is not None and shard.number >= 0 and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # a stale handle; it is let go of all the same
                os.posix_fadvise(shard.number, 0, 0, os.POSIX_FADV_DONTNEED)
        del shard  # a batch that ended meanwhile could not close it
        self.close_unused()

    def close(self) -> None:
        """Close every shard that no batch pins."""
        with self._lock:
            self._held.clear()
            self._folder = None
        self.close_unused()

    def close_inherited(self) -> None:
        """Close everything in a forked child, whose parent's threads, which may be using it, are not there."""
        self._lock = threading.Lock()
        _close_all(self._files)
        self._held.clear()
        self._folder = None
        self._unused.clear()


def _close_all(files: dict[weakref.ref[_OpenFile], int]) -> None:
    while files:
        os.close(files.popitem()[1])


class _Sharing:
    """The open shards of every layer that this process reads: each may keep an equal part of what others don't need."""

    def __init__(self) -> None:
        self._members: weakref.WeakSet[OpenShards] = weakref.WeakSet()
        self._lock = threading.Lock()

    def share_of(self, member: OpenShards) -> int:
        """Return how many shards each may keep open that has so many, a new member among them."""
        if member not in self._members:
            with self._lock:
                self._members.add(member)
                members = list(self._members)
            for each in members:
                each.trim()
        with self._lock:  # another thread may be adding its own
            wanted = sorted(each.wanted for each in self._members)
        left = most_open()
        for before, most in enumerate(wanted):
            equal = left // (len(wanted) - before)
            if most > equal:
                return max(1, equal)
            left -= most
        return most_open()

    def start_afresh(self) -> None:
        """Close, in a forked child, what its parent had open: the child opens files of its own, within one limit."""
        inherited, self._members, self._lock = list(self._members), weakref.WeakSet(), threading.Lock()
        for member in inherited:
            member.close_inherited()


_sharing = _Sharing()
os.register_at_fork(after_in_child=_sharing.start_afresh)
