"""Copy whole layers file by file, each shard checked row by row on the way.

Order: descriptions and tables, then shards, each before its commit record, and last the generations, the newest at the
very end. So what a copy that was killed has is either proven by a record, or made again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import xxhash

from usjepa.cache.errors import DamageError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.protocol import TABLE_LIMIT
from usjepa.cache.store.commits import committed_layers, records, whole_shard
from usjepa.cache.store.descriptions import commit_of, derivable, soft_of, table_hashes
from usjepa.cache.store.generations import NEWEST, generation_name
from usjepa.cache.store.shard import damaged_slots
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable

    from usjepa.cache.copying.target import Order
    from usjepa.cache.storage.protocol import Guard, Storage
    from usjepa.cache.store.commits import Commit
    from usjepa.cache.store.layers import Layer

_MEND = "Nothing damaged is copied: mend the source first, with usjepa-cache verify STORE --repair."
_THREADS, _REMOTE_THREADS = 2, 16
"""Shards in hand at once: on disks one is read while the other is written; object storages take their time."""


@dataclass
class Tally:
    """What a copy did."""

    rows: int = 0
    shards: int = 0
    kept: int = 0
    """Of the shards, those that were there already."""
    nbytes: int = 0
    """Of the shards that were copied."""

    def add(self, nbytes: int | None) -> None:
        """Count a shard of so many bytes; None: it was there already."""
        self.shards += 1
        self.kept += nbytes is None
        self.nbytes += nbytes or 0


def threads_between(source: Storage, target: Storage) -> int:
    """Return how many shards to have in hand at once."""
    local = isinstance(source, LocalStorage) and isinstance(target, LocalStorage)
    return _THREADS if local else _REMOTE_THREADS


def in_threads(threads: int, tasks: list[Callable[[], int | None]], tally: Tally, label: str) -> None:
    """Run tasks, each a shard, and count them; the first error ends the rest."""

    def run(task: Callable[[], int | None]) -> int | None:
        safe_point()
        return task()

    pool = ThreadPoolExecutor(threads, f"usjepa-{label}")
    try:
        with ProgressBar(len(tasks), label, unit="shards") as progress:
            for nbytes in pool.map(run, tasks):
                tally.add(nbytes)
                progress.update(1)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class WholeCopy:
    """Copies whole layers."""

    order: Order
    trusted: bool
    """Whether a shard of the target that has a commit record is whole; else its rows are checked."""
    guard: Guard

    def run(self) -> Tally:
        """Copy what the target lacks.

        Raises:
            DamageError: the source is damaged; the message names the row. Nothing damaged is copied.
        """
        order, tally = self.order, Tally(len(self.order.manifest.rows()))
        self._descriptions()
        layers = list(order.manifest.layers.values())
        known = records(order.source, layers)
        done = committed_layers(order.target, layers) if self.trusted else {}
        tasks: list[Callable[[], int | None]] = [
            partial(self._shard, layer, shard, known[layer.name].get(shard), done.get(layer.name, {}).get(shard))
            for layer in layers
            for shard in range(order.manifest.shard_count)
        ]
        in_threads(threads_between(order.source, order.target), tasks, tally, "copy")
        self._generations()
        return tally

    def _publish(self, name: str, data: bytes) -> None:
        if self.order.target.size(name) != len(data) or self.order.target.read(name, TABLE_LIMIT) != data:
            self.order.target.publish(name, data, self.guard)

    def _descriptions(self) -> None:
        source, manifest = self.order.source, self.order.manifest
        for name, data in derivable(manifest):
            if name not in (NEWEST, generation_name(manifest.generation)):
                self._publish(name, data)
        for segment in manifest.segments:
            for name, expected in table_hashes(segment):
                self._publish(name, _table(source, name, expected))
        for name in source.names("references"):
            if f"latents/{name.rpartition('.')[0]}" in manifest.layers:
                self._publish(f"references/{name}", source.read(f"references/{name}"))

    def _shard(self, layer: Layer, shard: int, known: Commit | None, done: Commit | None) -> int | None:
        """Copy a shard and its record, given those of source and target; return its bytes, None where it is there."""
        order = self.order
        commit = self._commit(layer, shard, known)
        record = layer.commit_name(shard)
        if done == commit:
            return None
        if not self.trusted and self._is_there(layer, shard, commit):
            self._publish(record, commit.to_bytes())
            return None
        data = checked_shard(order.source, layer, shard, commit.table)
        order.target.publish(layer.shard_name(shard), data, self.guard)
        order.target.publish(record, commit.to_bytes(), self.guard)
        return len(data)

    def _commit(self, layer: Layer, shard: int, found: Commit | None) -> Commit:
        """Return the source's record of a shard, or the one that the manifest implies."""
        manifest = self.order.manifest
        wanted = manifest.tables[layer.name][shard]
        if found is not None and found.table == wanted and found.soft == soft_of(manifest, layer.name, shard):
            return found
        size = self.order.source.size(layer.shard_name(shard))
        return commit_of(manifest, layer, shard, size or 0)

    def _is_there(self, layer: Layer, shard: int, commit: Commit) -> bool:
        target = self.order.target
        if target.size(layer.shard_name(shard)) != commit.size:
            return False
        try:
            checked_shard(target, layer, shard, commit.table)
        except DamageError:
            return False
        return True

    def _generations(self) -> None:
        order = self.order
        for manifest in (*order.kept, order.manifest):
            self._publish(generation_name(manifest.generation), manifest.to_bytes())
        self._publish(NEWEST, order.manifest.to_bytes())


def _table(storage: Storage, name: str, expected: str) -> bytes:
    try:
        data = storage.read(name, TABLE_LIMIT)
    except FileNotFoundError:
        data = b""
    if xxhash.xxh3_128_hexdigest(data) != expected:
        raise DamageError(f"{storage.url}/{name}: not the table that was written. {_MEND}")
    return data


def checked_shard(storage: Storage, layer: Layer, shard: int, table: str) -> bytes:
    """Return a whole shard file, every row of it checked; raises DamageError that names the row."""
    where = f"{storage.url}/{layer.shard_name(shard)}"
    try:
        data, trailer = whole_shard(storage, layer, shard, table)
    except DamageError as error:
        raise DamageError(f"{error} {_MEND}", layer=layer.name, shard=shard) from error
    first = shard * layer.rows_per_shard
    bad = damaged_slots(memoryview(data), trailer, layer.layout, bytes.fromhex(layer.digest), first)
    if bad:
        raise DamageError(
            f"{where}: row {first + bad[0]} is not what was built{f', nor are {len(bad) - 1} more' * (len(bad) > 1)}. "
            f"{_MEND}",
            layer=layer.name, shard=shard, row=first + bad[0],
        )  # fmt: skip
    return data
