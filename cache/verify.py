"""`usjepa-cache verify`: every byte of the newest generation against what was built.

Unlike a read, it also looks at what a read has no need of: rows' crc32c and padding (foreign readers rely on
them), commit records, tables of rows and sources, and the manifests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.commits import read_commit
from usjepa.cache.errors import DamageError, NotSealedError
from usjepa.cache.manifest import Manifest, generation_name
from usjepa.cache.progress import Progress
from usjepa.cache.shard import Trailer, check_slot, parse_trailer, row_seed
from usjepa.cache.state import check_layer, read_layer, read_manifest, read_state
from usjepa.cache.storage import Storage, open_storage
from usjepa.cache.store import Store, read_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.layers import Layer


@dataclass
class Report:
    """What `verify` found."""

    damages: list[str] = field(default_factory=list)
    """One line each: layer, shard, row, source."""
    rows: int = 0
    shards: int = 0
    nbytes: int = 0

    @property
    def summary(self) -> str:
        """Return the closing line."""
        checked = f"{self.rows:,} rows, {self.shards:,} shards, {self.nbytes / 1e6:,.1f} MB checked"
        return f"ok: {checked}" if not self.damages else f"{len(self.damages):,} damaged: {checked}"


def verify(store: str, quick: bool = False) -> Report:
    """Check a sealed store; nothing is changed.

    Args:
        store: folder or URL.
        quick: sizes, tables, indexes and records only; rows are not read.

    Raises:
        NotSealedError: there is no generation to check.
        DamageError: the manifest itself can't be read, so there is nothing to check against.
    """
    storage = open_storage(store)
    state = read_state(storage)
    if state.newest is None:
        raise NotSealedError(f"{storage.url}: not sealed, so there is nothing to check against yet. Finish its build.")
    manifest, report = state.newest, Report(rows=len(state.newest.row_numbers()))
    report.damages += _descriptions(storage, manifest)
    origin = Store(storage.url, manifest, threads=1)
    with Progress(manifest.shard_count * len(manifest.layers), "verify", unit="shards") as progress:
        for layer in manifest.layers.values():
            for shard in range(manifest.shard_count):
                report.damages += _shard(storage, layer, shard, manifest, origin, quick, report)
                report.shards += 1
                progress.update(1)
    return report


def _descriptions(storage: Storage, manifest: Manifest) -> list[str]:
    """Return what is wrong with manifests, tables and layer descriptions."""
    found = []
    for check in (_check_generation, _check_tables, _check_layers):
        try:
            check(storage, manifest)
        except DamageError as error:
            found.append(str(error))
    return found


def _check_generation(storage: Storage, manifest: Manifest) -> None:
    numbered = read_manifest(storage, manifest.generation)
    if numbered is None or numbered.digest != manifest.digest:
        name = generation_name(manifest.generation)
        raise DamageError(f"{storage.url}/{name}: missing, or not the generation that manifest.json holds.")


def _check_tables(storage: Storage, manifest: Manifest) -> None:
    for segment in manifest.segments:
        sources, rows = read_tables(storage, segment)
        if len(rows) != segment.rows or (len(rows) and int(rows.source.max()) >= len(sources)):
            raise DamageError(f"{storage.url}/{segment.folder}: its tables do not hold {segment.rows} rows.")


def _check_layers(storage: Storage, manifest: Manifest) -> None:
    for layer in manifest.layers.values():
        check_layer(storage, layer, read_layer(storage, layer.name))


def _shard(
    storage: Storage, layer: Layer, shard: int, manifest: Manifest, origin: Store, quick: bool, report: Report
) -> list[str]:
    """Return the damages of one shard."""
    name, where = layer.shard_name(shard), f"{storage.url}/{layer.shard_name(shard)} (shard {shard})"
    damages = _commit_damage(storage, layer, shard, manifest)
    size = storage.size(name)
    if size is None:
        return [*damages, f"{where}: missing"]
    length = layer.layout.trailer_nbytes
    trailer_bytes = storage.read_range(name, max(0, size - length), length)
    report.nbytes += len(trailer_bytes)
    try:
        trailer = parse_trailer(trailer_bytes, size, layer.layout, manifest.tables[layer.name][shard], where)
    except DamageError as error:
        return [*damages, str(error)]
    if quick:
        return damages
    report.nbytes += size - length
    first = shard * layer.rows_per_shard
    rows = _bad_rows(storage, layer, first, trailer)
    return damages + [f"{where}: row {row} is not what was built{_origin(origin, row)}" for row in rows]


def _commit_damage(storage: Storage, layer: Layer, shard: int, manifest: Manifest) -> list[str]:
    """The manifest alone is believed on reading; a lost record would make a later build redo the shard."""
    where = f"{storage.url}/{layer.commit_name(shard)}"
    try:
        commit = read_commit(storage, layer, shard)
    except DamageError as error:
        return [str(error)]
    if commit is None:
        return [f"{where}: the commit record is missing"]
    if commit.table != manifest.tables[layer.name][shard]:
        return [f"{where}: the commit record names another shard content than the manifest"]
    return []


def _bad_rows(storage: Storage, layer: Layer, first: int, trailer: Trailer) -> Iterator[int]:
    """Yield the rows of a shard whose slot, crc32c or padding is not what was built."""
    name, slot = layer.shard_name(first // layer.rows_per_shard), layer.layout.slot_nbytes
    digest = bytes.fromhex(layer.digest)
    for i in np.flatnonzero(trailer.offsets >= 0):
        row = first + int(i)
        data = memoryview(storage.read_range(name, int(trailer.offsets[i]), slot))
        good = len(data) == slot and xxhash.xxh3_64_intdigest(data, row_seed(digest, row)) == int(trailer.hashes[i])
        if not good or not check_slot(data, layer.layout):
            yield row


def _origin(store: Store, row: int) -> str:
    """Return which source a row shows, where the tables can still be read."""
    try:
        position = int(np.searchsorted(store.rows, row))
        source = store.table.sources[int(store.table.source[position])]
    except DamageError as error:
        return f" (its source is unknown: {error})"
    return (
        f" (it shows {source.path}, frame {int(store.table.frame[position])}, view {int(store.table.view[position])})"
    )
