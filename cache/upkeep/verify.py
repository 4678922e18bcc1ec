"""Check every byte of a store's newest generation against what was built.

Unlike a read, it also checks what a read does not need: rows' crc32c and padding (foreign readers rely on them), commit
records, tables of rows and sources, and the manifests.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import DamageError, HoleError, NotSealedError, SourceError
from usjepa.cache.reading.store import Store
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.commits import read_commit, shard_end
from usjepa.cache.store.descriptions import (
    damaged_description,
    damaged_table,
    derivable,
    newest_readable,
    present_rows,
    table_hashes,
)
from usjepa.cache.store.origins.segment_tables import read_tables
from usjepa.cache.store.row_check import is_intact, row_hash
from usjepa.cache.store.shard import Trailer, parse_trailer
from usjepa.cache.store.state import refuse_unfinished, root_settings
from usjepa.cache.terminal.progress import ProgressBar
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.tables import SourceTable

_STRETCH_NBYTES = 1 << 23
"""Bytes read at a time: as many as a thread holds."""
_THREADS, _REMOTE_THREADS, _QUICK_THREADS = 2, 8, 64
"""Shards checked at once: from a disk one is read while the other is hashed; an object storage takes its time, and a
quick check of one waits and does nothing else."""


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was built."""

    file: str
    """Its name within the store."""
    what: str
    layer: str | None = None
    shard: int | None = None
    row: int | None = None
    lost: Sequence[int] = ()
    """Rows that can't be read, or not be told apart, since the table or index that all of them need is damaged."""
    source: str = ""
    """Which source, frame and view a damaged row shows; of several rows, the first and the last."""

    def __str__(self) -> str:
        place = self.file if self.shard is None else f"{self.file} (shard {self.shard})"
        row = "" if self.row is None else f"row {self.row} "
        lost = f"; it takes {_named(self.lost)} with it" if self.lost else ""
        line = f"{place}: {row}{self.what.rstrip('.')}{lost}{f' ({self.source})' if self.source else ''}"
        return shown_name(line)


def _named(rows: Sequence[int]) -> str:
    """Return rows for a message."""
    return f"row {rows[0]}" if len(rows) == 1 else f"{len(rows):,} rows from {rows[0]} to {rows[-1]}"


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
        NotSealedError: there is no generation to check, or a copy or removal has not ended.
        DamageError: no manifest can be read, so there is nothing to check against.
    """
    storage = open_storage(store)
    return verify_against(storage, sealed_manifest(storage), quick)


def sealed_manifest(storage: Storage) -> Manifest:
    """Return the newest readable generation; raises as `verify` does."""
    refuse_unfinished(storage)
    manifest = newest_readable(storage)
    if manifest is None:
        root_settings(storage)  # says so when there is no store at all
        raise NotSealedError(f"{storage.url}: not sealed, so there is nothing to check against yet. Finish its build.")
    return manifest


def verify_against(storage: Storage, manifest: Manifest, quick: bool = False) -> Report:
    """Check a store against one of its manifests; see `verify`."""
    report = Report(rows=len(manifest.rows()))
    report.damages += _descriptions(storage, manifest)
    origin = Store(storage.url, manifest, threads=1)
    shards = [(layer, shard) for layer in manifest.layers.values() for shard in range(manifest.shard_count)]
    remote = _QUICK_THREADS if quick else _REMOTE_THREADS
    pool = ThreadPoolExecutor(_THREADS if isinstance(storage, LocalStorage) else remote, "usjepa-verify")
    try:
        with ProgressBar(len(shards), "verify", unit="shards") as progress:
            for damages, nbytes in pool.map(lambda place: _shard(storage, manifest, quick, *place), shards):
                report.damages += [_with_source(damage, origin) for damage in damages]
                report.shards, report.nbytes = report.shards + 1, report.nbytes + nbytes
                progress.update(1)
    finally:
        pool.shutdown(cancel_futures=True)
    return report


def _with_source(damage: Damage, origin: Store) -> Damage:
    """Add what a damaged row shows, where the tables can still be read."""
    try:
        if damage.row is not None:
            return replace(damage, source=f"it shows {origin.origin_of(damage.row)}")
        ends = [str(origin.origin_of(row)) for row in dict.fromkeys((*damage.lost[:1], *damage.lost[-1:]))]
        return replace(damage, source=f"showing {' to '.join(ends)}") if ends else damage
    except (DamageError, HoleError) as error:
        return replace(damage, source=f"its source is unknown: {error}")


def _descriptions(storage: Storage, manifest: Manifest) -> Iterator[Damage]:
    """Yield what is wrong with manifests, tables and descriptions of layers and segments."""
    for name, wanted in derivable(manifest):
        what = damaged_description(storage, name, wanted, manifest)
        if what is not None:
            yield Damage(name, what)
    for segment in manifest.segments:
        rows = range(segment.first_row, segment.first_row + segment.rows)
        for name, expected in table_hashes(segment):
            what = damaged_table(storage, name, expected)
            if what is not None:
                yield Damage(name, what, lost=rows)


def _shard(storage: Storage, manifest: Manifest, quick: bool, layer: Layer, shard: int) -> tuple[list[Damage], int]:
    """Return the damages of one shard, without the sources of its rows, and how many bytes were looked at."""
    name = layer.shard_name(shard)
    damages = _commit_damage(storage, layer, shard, manifest)
    end = shard_end(storage, layer, shard)
    if end is None:
        return [*damages, Damage(name, "missing", layer.name, shard, lost=present_rows(manifest, shard))], 0
    try:
        trailer = parse_trailer(end.parts[0], end.size, layer.layout, manifest.tables[layer.name][shard], "")
    except DamageError as error:
        lost, what = present_rows(manifest, shard), str(error).removeprefix(": ")
        return [*damages, Damage(name, what, layer.name, shard, lost=lost)], len(end.parts[0])
    if quick:
        return damages, len(end.parts[0])
    what = "is not what was built"
    rows = _bad_rows(storage, layer, shard, trailer)
    return damages + [Damage(name, what, layer.name, shard, row) for row in rows], end.size


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


def _bad_rows(storage: Storage, layer: Layer, shard: int, trailer: Trailer) -> list[int]:
    """Return the rows of a shard whose slot, crc32c or padding is not what was built."""
    slot_nbytes, slots = layer.layout.slot_nbytes, np.flatnonzero(trailer.offsets >= 0)
    stretches = list(_stretches(slots, trailer.offsets[slots], slot_nbytes))
    first, digest = shard * layer.rows_per_shard, bytes.fromhex(layer.digest)
    bad: dict[int, list[int]] = {}

    def check(number: int, data: bytes) -> None:
        view = memoryview(data)
        bad[number] = []
        for i, slot in enumerate(stretches[number].tolist()):
            mine = view[i * slot_nbytes : (i + 1) * slot_nbytes]
            good = len(mine) == slot_nbytes and row_hash(digest, first + slot, mine) == int(trailer.hashes[slot])
            if not good or not is_intact(mine, layer.row_nbytes):
                bad[number].append(first + slot)

    ranges = [(int(trailer.offsets[group[0]]), len(group) * slot_nbytes) for group in stretches]
    storage.read_each(layer.shard_name(shard), ranges, check)
    return [row for number in sorted(bad) for row in bad[number]]


def _stretches(slots: NDArray[np.intp], offsets: NDArray[np.int64], slot_nbytes: int) -> Iterator[NDArray[np.intp]]:
    """Cut a shard's slots, given where they begin in the file, into groups that follow one another there."""
    most = max(1, _STRETCH_NBYTES // slot_nbytes)
    apart = np.flatnonzero(np.diff(offsets) != slot_nbytes) + 1
    for group in np.split(slots, apart):
        yield from (group[start : start + most] for start in range(0, len(group), most))


def verify_sources(store: str, source: str, settings: CacheSettings) -> list[Damage]:
    """Hash every source again and compare with what was built; nothing is decoded.

    Args:
        store: folder or URL.
        source: where the sources lie now: the folder, file or manifest that the build was given, or `phantom`.
        settings: the `cache` section that the store was built with.
    """
    storage = open_storage(store)
    manifest = sealed_manifest(storage)
    reader = SourceReader.of(list_source(source, settings, groups=False), settings)
    found = []
    tables = [(segment, _with_rows(read_tables(storage, segment)[0])) for segment in manifest.segments]
    with ProgressBar(sum(len(table) for _, table in tables), "verify sources", unit="files") as progress:
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


def _with_rows(sources: SourceTable) -> SourceTable:
    """Return the sources that rows were cut from: those that could be read."""
    return sources.take(sources.error == "")
