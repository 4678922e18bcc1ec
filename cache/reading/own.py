"""What of an open store belongs to one process: descriptors, trailers, threads. A forked child makes its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from usjepa.cache.reading.crew import Crew
from usjepa.cache.reading.grace import Grace
from usjepa.cache.reading.handles import Handles
from usjepa.cache.reading.reading import LayerReader
from usjepa.cache.reading.trailers import Trailers
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.location import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from usjepa.cache.store.generations import Manifest

_this_process = object()


def _after_fork() -> None:
    # Not the process number: a grandchild may have that of its dead grandparent.
    global _this_process
    _this_process = object()


os.register_at_fork(after_in_child=_after_fork)


class Own:
    """Readers of every layer and the threads that use them."""

    def __init__(self, location: str, manifest: Manifest, threads: int, check_rows: bool) -> None:
        storage = open_storage(location)
        grace = Grace()
        handles = Handles(storage, grace) if isinstance(storage, LocalStorage) else None
        trailers = Trailers(grace)
        self.readers = {
            name: LayerReader(storage, layer, manifest.tables[name], check_rows, grace, handles, trailers)
            for name, layer in manifest.layers.items()
        }
        self.crew = Crew(threads - 1)

    def close(self) -> None:
        """Close idle files and end the threads."""
        for reader in self.readers.values():
            reader.close()
        self.crew.close()


class OfProcess:
    """The `Own` of whichever process asks, made when it first does."""

    def __init__(self, make: Callable[[], Own]) -> None:
        self._make = make
        self._made: dict[object, Own] = {}

    def get(self) -> Own:
        """Return this process's, making it anew after a fork or a close."""
        own = self._made.get(_this_process)
        if own is None:
            # Threads that come here together each make one, with nothing open in it yet; the first one stays.
            own = self._made.setdefault(_this_process, self._make())
        return own

    def close(self) -> None:
        """Close this process's, if it has any."""
        own = self._made.pop(_this_process, None)
        if own is not None:
            own.close()
