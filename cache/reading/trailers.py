"""What is known of shards' ends, where each row lies and what it must hash to: bounded in bytes, shared by layers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usjepa.cache.reading.grace import Grace
    from usjepa.cache.reading.shard_table import ShardTable
    from usjepa.cache.store.shard import Trailer

_TRAILERS_NBYTES = 64 << 20
"""Bytes of checksum tables that a process keeps: those of 8 million rows of one layer."""


class Trailers:
    """What is known of shards' ends, bounded in bytes; the oldest go first. Shared by the layers of a store."""

    def __init__(self, grace: Grace, most_nbytes: int = _TRAILERS_NBYTES) -> None:
        """`grace` keeps the memory of those that went while the compiled loop may be reading it."""
        self._grace, self._most = grace, most_nbytes
        self._held: dict[tuple[str, int], tuple[Trailer, ShardTable]] = {}
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> Trailer | None:
        """Return a trailer by layer and shard, where it is held."""
        found = self._held.get(key)
        return found[0] if found is not None else None

    def put(self, key: tuple[str, int], trailer: Trailer, table: ShardTable) -> None:
        """Hold a trailer, in place of older ones when there is no room, and have it in its layer's table."""
        with self._lock:
            self._remove(key)
            self._held[key] = trailer, table
            table.offsets[key[1]], table.hashes[key[1]] = trailer.addresses
            self._nbytes += trailer.own_nbytes
            while self._nbytes > self._most and len(self._held) > 1:
                self._remove(next(iter(self._held)))

    def drop(self, key: tuple[str, int]) -> None:
        """Forget a shard's trailer."""
        with self._lock:
            self._remove(key)

    def _remove(self, key: tuple[str, int]) -> None:
        if key not in self._held:
            return
        trailer, table = self._held.pop(key)
        table.offsets[key[1]] = table.hashes[key[1]] = 0
        self._nbytes -= trailer.own_nbytes
        self._grace.retire(lambda: trailer)
