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
from usjepa.cache.descriptions import (
    damaged_description,
    damaged_table,
    derivable,
    newest_readable,
    table_hashes,
)
from usjepa.cache.errors import DamageError, NotSealedError, SourceError
from usjepa.cache.progress import Progress
from usjepa.cache.shard import Trailer, check_slot, parse_trailer, row_seed
from usjepa.cache.sources.listing import list_source
from usjepa.cache.sources.read import SourceReader
from usjepa.cache.state import root_settings
from usjepa.cache.storage import Storage, open_storage
from usjepa.cache.store import Store
from usjepa.cache.table import read_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.layers import Layer
    from usjepa.cache.manifest import Manifest
    from usjepa.cache.settings import CacheSettings


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was built."""

    file: str
    """Its name within the store."""
    what: str
    layer: str | None = None
    shard: int | None = None
    row: int | None = None
    source: str = ""
    """Which source, frame and view a damaged row shows."""

    def __str__(self) -> str:
        place = self.file if self.shard is None else f"{self.file} (shard {self.shard})"
        row = "" if self.row is None else f"row {self.row} "
        return f"{place}: {row}{self.what}{f' ({self.source})' if self.source else ''}"


@dataclass
class Report:
    """What `verify` found."""

    damages: list[Damage] = field(default_factory=list)
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
        DamageError: no manifest can be read, so there is nothing to check against.
    """
    storage = open_storage(store)
    return verify_against(storage, sealed_manifest(storage), quick)


def sealed_manifest(storage: Storage) -> Manifest:
    """Return the newest readable generation; raises as `verify` does."""
    manifest = newest_readable(storage)
    if manifest is None:
        root_settings(storage)  # says so when there is no store at all
        raise NotSealedError(f"{storage.url}: not sealed, so there is nothing to check against yet. Finish its build.")
    return manifest


def verify_against(storage: Storage, manifest: Manifest, quick: bool = False) -> Report:
    """Check a store against one of its manifests; see `verify`."""
    report = Report(rows=len(manifest.row_numbers()))
    report.damages += _descriptions(storage, manifest)
    origin = Store(storage.url, manifest, threads=1)
    with Progress(manifest.shard_count * len(manifest.layers), "verify", unit="shards") as progress:
        for layer in manifest.layers.values():
            for shard in range(manifest.shard_count):
                report.damages += _shard(storage, layer, shard, manifest, origin, quick, report)
                report.shards += 1
                progress.update(1)
    return report


def _descriptions(storage: Storage, manifest: Manifest) -> Iterator[Damage]:
    """Yield what is wrong with manifests, tables and descriptions of layers and segments."""
    for name, wanted in derivable(manifest):
        what = damaged_description(storage, name, wanted, manifest)
        if what is not None:
            yield Damage(name, what)
    for name, expected in table_hashes(manifest):
        what = damaged_table(storage, name, expected)
        if what is not None:
            yield Damage(name, what)


def _shard(
    storage: Storage, layer: Layer, shard: int, manifest: Manifest, origin: Store, quick: bool, report: Report
) -> list[Damage]:
    """Return the damages of one shard."""
    name = layer.shard_name(shard)
    damages = _commit_damage(storage, layer, shard, manifest)
    size = storage.size(name)
    if size is None:
        return [*damages, Damage(name, "missing", layer.name, shard)]
    length = layer.layout.trailer_nbytes
    trailer_bytes = storage.read_range(name, max(0, size - length), length)
    report.nbytes += len(trailer_bytes)
    try:
        trailer = parse_trailer(trailer_bytes, size, layer.layout, manifest.tables[layer.name][shard], "")
    except DamageError as error:
        return [*damages, Damage(name, str(error).removeprefix(": "), layer.name, shard)]
    if quick:
        return damages
    report.nbytes += size - length
    first = shard * layer.rows_per_shard
    rows = _bad_rows(storage, layer, first, trailer)
    what = "is not what was built"
    return damages + [Damage(name, what, layer.name, shard, row, origin_of(origin, row)) for row in rows]


def _commit_damage(storage: Storage, layer: Layer, shard: int, manifest: Manifest) -> list[Damage]:
    """The manifest alone is believed on reading; a lost record would make a later build redo the shard."""
    name = layer.commit_name(shard)
    try:
        commit = read_commit(storage, layer, shard)
    except DamageError as error:
        return [Damage(name, str(error).removeprefix(f"{storage.url}/{name}: "))]
    if commit is None:
        return [Damage(name, "the commit record is missing")]
    if commit.table != manifest.tables[layer.name][shard]:
        return [Damage(name, "the commit record names another shard content than the manifest")]
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


def origin_of(store: Store, row: int) -> str:
    """Return which source a row shows, where the tables can still be read."""
    try:
        position = int(np.searchsorted(store.rows, row))
        source = store.table.sources[int(store.table.source[position])]
    except DamageError as error:
        return f"its source is unknown: {error}"
    return f"it shows {source.path}, frame {int(store.table.frame[position])}, view {int(store.table.view[position])}"


def verify_sources(store: str, source: str, settings: CacheSettings) -> list[Damage]:
    """Hash every source again and compare with what was built; nothing is decoded.

    Args:
        store: folder or URL.
        source: where the sources lie now: the folder, file or manifest that the build was given, or `phantom`.
        settings: the `cache` section that the store was built with.
    """
    storage = open_storage(store)
    manifest = sealed_manifest(storage)
    reader = SourceReader.of(list_source(source, settings), settings)
    found = []
    tables = [(segment, read_tables(storage, segment)[0]) for segment in manifest.segments]
    with Progress(sum(len(table) for _, table in tables), "verify sources", unit="files") as progress:
        for segment, table in tables:
            for path, kind, expected in zip(table.path, table.reader, table.content_hash, strict=True):
                progress.update(1)
                try:
                    content = reader.content_hash(str(path), str(kind))
                except SourceError as error:
                    found.append(Damage(f"{segment.folder}/sources.parquet", f"source {error}"))
                    continue
                if content != expected:
                    what = f"source {path}: its content is not what was built (xxh3-128 {expected} then, {content} now)"
                    found.append(Damage(f"{segment.folder}/sources.parquet", what))
    return found
