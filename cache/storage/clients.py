"""Keep the clients of buckets that this process has opened, for all who ask again."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore.store import from_url

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

_RETRYING: RetryConfig = {
    "max_retries": 16,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 3},
}
"""How obstore asks a server again that answers 5xx: a busy one may say in Retry-After for how long, which obstore does
not read, so waits grow until about half a minute has passed."""
_MOST_CLIENTS = 8


class _Clients:
    """What this process has opened last: a batch then finds connections that the one who opened the store made."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, frozenset[tuple[str, str]]], ObjectStore] = {}
        self._lock = threading.Lock()
        self._inherited: list[object] = []

    def of(self, url: str) -> ObjectStore:
        """Return the client of a URL under the environment of now, which holds endpoint and credentials."""
        key = (url, frozenset(os.environ.items()))
        with self._lock:
            client = self._held.pop(key, None)
            if client is None:
                client = from_url(url, retry_config=_RETRYING)
            self._held[key] = client  # the newest is the last
            if len(self._held) > _MOST_CLIENTS:
                del self._held[next(iter(self._held))]
        return client

    def start_afresh(self) -> None:
        """Use, in a forked child, none of its parent's; nor close them, which the parent still waits on."""
        self._inherited.append(self._held)
        self._held, self._lock = {}, threading.Lock()


_clients = _Clients()
os.register_at_fork(after_in_child=_clients.start_afresh)


def client_of(url: str) -> ObjectStore:
    """Return a client of a bucket's URL; BaseError or ValueError of obstore where it can't be opened."""
    return _clients.of(url)
