"""What is known of shards' ends, where each row lies and what it must hash to: bounded in bytes, shared by layers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usjepa.cache.shard import Trailer

_TRAILERS_NBYTES = 64 << 20
"""Bytes of checksum tables that a process keeps: those of 8 million rows of one layer."""


class Trailers:
    """What is known of shards' ends, bounded in bytes; the oldest go first. Shared by the layers of a store."""

    def __init__(self, most_nbytes: int = _TRAILERS_NBYTES) -> None:
        self._most = most_nbytes
        self._held: dict[tuple[str, int], Trailer] = {}
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> Trailer | None:
        """Return a shard's trailer where it is held."""
        return self._held.get(key)

    def put(self, key: tuple[str, int], trailer: Trailer) -> None:
        """Hold a trailer, in place of older ones when there is no room."""
        with self._lock:
            self._remove(key)
            self._held[key] = trailer
            self._nbytes += trailer.own_nbytes
            while self._nbytes > self._most and len(self._held) > 1:
                self._remove(next(iter(self._held)))

    def drop(self, key: tuple[str, int]) -> None:
        """Forget a shard's trailer."""
        with self._lock:
            self._remove(key)

    def _remove(self, key: tuple[str, int]) -> None:
        old = self._held.pop(key, None)
        if old is not None:
            self._nbytes -= old.own_nbytes
