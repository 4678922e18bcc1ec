"""Write a shard anew without some of its rows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from usjepa.cache.errors import DamageError
from usjepa.cache.store.commits import Commit, read_commit, whole_shard
from usjepa.cache.store.descriptions import commit_of
from usjepa.cache.store.shard import damaged_slots, pack_shard

if TYPE_CHECKING:
    from collections.abc import Collection

    from usjepa.cache.storage.protocol import Guard, Storage
    from usjepa.cache.store.generations import Manifest
    from usjepa.cache.store.layers import Layer


def packed_without(
    storage: Storage, layer: Layer, shard: int, table: str, gone: Collection[int]
) -> tuple[memoryview, str]:
    """Return a shard's file without some rows, and the hash of its table; the other rows keep their bytes.

    Args:
        storage: of the store.
        layer: of which layer.
        shard: its number.
        table: xxh3-128 (hex) of its table as it is now.
        gone: numbers of the rows that are left out.

    Raises:
        DamageError: a row that stays is damaged.
    """
    data, trailer = whole_shard(storage, layer, shard, table)
    layout, first, digest = layer.layout, shard * layer.rows_per_shard, bytes.fromhex(layer.digest)
    bad = [first + place for place in damaged_slots(memoryview(data), trailer, layout, digest, first)]
    lost = [row for row in bad if row not in gone]
    if lost:
        raise DamageError(
            f"{storage.url}/{layer.shard_name(shard)}: row {lost[0]} is not what was built.",
            layer=layer.name, shard=shard, row=lost[0],
        )  # fmt: skip
    view = memoryview(data)
    rows: list[memoryview | None] = []
    for place, offset in enumerate(trailer.offsets.tolist()):
        stays = offset >= 0 and first + place not in gone
        rows.append(view[offset : offset + layout.row_nbytes] if stays else None)
    return pack_shard(rows, layout, digest, first)


def rewrite(
    storage: Storage,
    layer: Layer,
    shard: int,
    manifests: tuple[Manifest, Manifest],
    gone: Collection[int],
    guard: Guard,
) -> None:
    """Bring a shard and its record from one generation to the next; nothing happens where that is done already.

    Args:
        storage: of the store.
        layer: of which layer.
        shard: its number.
        manifests: the generation that the shard is of, and the one that it will be of.
        gone: numbers of the rows that are left out.
        guard: asked before each rename.
    """
    before, after = (manifest.tables[layer.name][shard] for manifest in manifests)
    name = layer.shard_name(shard)
    commit = _record(storage, layer, shard, manifests[1], gone)
    size = commit.size
    try:
        data, _ = whole_shard(storage, layer, shard, after)
        size = len(data)
    except DamageError:
        packed, table = packed_without(storage, layer, shard, before, gone)
        if table != after:
            raise DamageError(f"{storage.url}/{name}: changed while rows were removed from it.") from None
        storage.publish(name, packed, guard)
        size = len(packed)
    wanted = Commit(
        shard, size, after, layer.digest, commit.soft, commit.holes, commit.blank, commit.doubtful
    ).to_bytes()
    if storage.size(layer.commit_name(shard)) is None or storage.read(layer.commit_name(shard)) != wanted:
        storage.publish(layer.commit_name(shard), wanted, guard)


def _record(storage: Storage, layer: Layer, shard: int, manifest: Manifest, gone: Collection[int]) -> Commit:
    """Return a shard's record in the next generation, but for its size; what it told of other rows is kept."""
    implied = commit_of(manifest, layer, shard, 0)
    found = None
    with contextlib.suppress(DamageError):
        found = read_commit(storage, layer, shard)
    if found is None:
        return implied
    rows = {row for row, _ in found.holes} | set(gone)
    holes = tuple(hole for hole in implied.holes if hole[0] in rows)
    blank, doubtful = (tuple(note for note in notes if note[0] not in gone) for notes in (found.blank, found.doubtful))
    return Commit(shard, 0, "", layer.digest, found.soft, holes, blank, doubtful)
