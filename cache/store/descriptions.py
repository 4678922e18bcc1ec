"""Derive a store's describing files from its manifest, and find those that are damaged.

Manifests, `zarr.json`s, segments, their tables and commit records: all but the tables follow from the manifest alone,
so a lost or damaged one can be written anew, with the same bytes.
"""

from __future__ import annotations

import contextlib
import json
from bisect import bisect_left
from typing import TYPE_CHECKING

import xxhash

from usjepa.cache.errors import DamageError
from usjepa.cache.storage.protocol import TABLE_LIMIT
from usjepa.cache.store.commits import Commit
from usjepa.cache.store.generations import NEWEST, Manifest, generation_name
from usjepa.cache.store.layers import (
    FORMAT_MAJOR,
    Layer,
    array_json,
    format_of,
    group_json,
    parse_array_json,
)
from usjepa.cache.store.state import read_manifest, segment_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from usjepa.cache.identity import Json
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment


def newest_readable(storage: Storage) -> Manifest | None:
    """Return the newest generation that can be read: `manifest.json`, or where that is damaged the last numbered one.

    Raises:
        DamageError: there are manifests, and none of them can be read.
    """
    broken: DamageError | None = None
    try:
        newest = read_manifest(storage)
        if newest is not None:
            return newest
    except DamageError as error:
        broken = error
    for name in reversed(storage.names("manifests")):
        try:
            return Manifest.from_bytes(storage.read(f"manifests/{name}"), f"{storage.url}/manifests/{name}")
        except DamageError as error:
            broken = broken or error
    if broken is not None:
        raise broken
    return None


def root_json(rows_per_shard: int, layers: Iterable[Layer] = ()) -> bytes:
    """Return the bytes of the `zarr.json` of a store that holds some layers."""
    return group_json({"usjepa": {"format": format_of(layers), "rows_per_shard": rows_per_shard}})


def _newest_root_json(rows_per_shard: int) -> bytes:
    return group_json({"usjepa": {"format": {"major": FORMAT_MAJOR, "minor": 0}, "rows_per_shard": rows_per_shard}})


def derivable(manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, bytes) of every description that follows from the manifest; commit records are apart."""
    yield NEWEST, manifest.to_bytes()
    yield generation_name(manifest.generation), manifest.to_bytes()
    yield "zarr.json", root_json(manifest.rows_per_shard, manifest.layers.values())
    for parent in sorted({name.rpartition("/")[0] for name in manifest.layers} - {""}):
        yield f"{parent}/zarr.json", group_json()
    for segment in manifest.segments:
        yield f"{segment.folder}/segment.json", segment_json(segment)
    for name, layer in manifest.layers.items():
        yield f"{name}/zarr.json", array_json(layer, manifest.extent)


def table_hashes(segment: Segment) -> Iterator[tuple[str, str]]:
    """Yield (file name, xxh3-128) of a segment's tables."""
    yield f"{segment.folder}/sources.parquet", segment.sources_hash
    yield f"{segment.folder}/rows.parquet", segment.rows_hash


def damaged_description(storage: Storage, name: str, wanted: bytes, manifest: Manifest) -> str | None:
    """Return what is wrong with a description, None when it is as it must be.

    An array's `zarr.json` may name more rows than the manifest: shapes run ahead while a store grows. So does the
    store's own format: it is raised before the first layer that needs it is sealed.
    """
    try:
        found = storage.read(name)
    except FileNotFoundError:
        return "missing"
    if found == wanted or (name == "zarr.json" and found == _newest_root_json(manifest.rows_per_shard)):
        return None
    layer = manifest.layers.get(name.removesuffix("/zarr.json"))
    if layer is None:
        return "not what was written: damaged or replaced"
    try:
        return None if _same_array(layer, found, manifest.extent, name) else "describes another layer than the manifest"
    except DamageError:
        return "not readable: cut or damaged"


def _same_array(layer: Layer, found: bytes, extent: int, name: str) -> bool:
    """Return whether a `zarr.json` is that of the layer for an array of `extent` rows or more."""
    described = parse_array_json(layer.name, found, name)
    rows = json.loads(found).get("shape", [0])[0]
    whole = isinstance(rows, int) and rows >= extent and found == array_json(layer, rows)
    return described.digest == layer.digest and whole


def damaged_table(storage: Storage, name: str, expected: str) -> str | None:
    """Return what is wrong with a segment's table, None when it is the one that was written."""
    try:
        found = xxhash.xxh3_128_hexdigest(storage.read(name, TABLE_LIMIT))
    except FileNotFoundError:
        return "missing, though the segment is finished"
    return None if found == expected else "not the table that was written: damaged or replaced"


def soft_of(manifest: Manifest, layer: str, shard: int) -> dict[str, Json]:
    """Return what a shard was made with."""
    return next(values for first, values in reversed(manifest.soft[layer]) if first <= shard)


def commit_of(manifest: Manifest, layer: Layer, shard: int, size: int) -> Commit:
    """Return the commit record of a shard as the manifest implies it."""
    soft = soft_of(manifest, layer.name, shard)
    return Commit(shard, size, manifest.tables[layer.name][shard], layer.digest, dict(soft), _holes(manifest, shard))


def _holes(manifest: Manifest, shard: int) -> tuple[tuple[int, str], ...]:
    """Return the holes of a shard; found by halving, as all shards may be asked for."""
    first = shard * manifest.rows_per_shard
    ends = (bisect_left(manifest.holes, (row, "")) for row in (first, first + manifest.rows_per_shard))
    return manifest.holes[slice(*ends)]


def present_rows(manifest: Manifest, shard: int) -> tuple[int, ...]:
    """Return the rows of a shard that exist, ascending: everything but holes and what lies beyond its segment."""
    first = shard * manifest.rows_per_shard
    with contextlib.suppress(StopIteration):
        segment = next(s for s in manifest.segments if shard in s.shards(manifest.rows_per_shard))
        stop = min(first + manifest.rows_per_shard, segment.first_row + segment.rows)
        holes = {row for row, _ in _holes(manifest, shard)}
        return tuple(row for row in range(first, stop) if row not in holes)
    raise DamageError(f"shard {shard} belongs to no segment.", shard=shard)
