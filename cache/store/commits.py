"""Record every finished shard in a JSON file; a shard without one is made again.

A record holds nothing that depends on time, host or process, so that a build that was killed and resumed
leaves the same bytes as one that was not.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import DamageError
from usjepa.cache.identity import Json, canonical, digest_of, parse_json
from usjepa.cache.storage.protocol import Piece
from usjepa.cache.store.shard import Trailer, parse_trailer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.storage.protocol import Found, Listed, Storage
    from usjepa.cache.store.layers import Layer


@dataclass(frozen=True)
class Commit:
    """A finished shard of one layer."""

    shard: int
    size: int
    """Bytes of the shard file."""
    table: str
    """xxh3-128 (hex) of the shard's checksum table."""
    layer_digest: str
    soft: dict[str, Json]
    """Versions and device it was computed with."""
    holes: tuple[tuple[int, str], ...] = ()
    """(row, reason) of rows of this shard whose frame could not be read, or was left out."""
    blank: tuple[tuple[int, str], ...] = ()
    """(row, which frame and why) of rows of this shard that show no echo; recorded with pixels only."""
    doubtful: tuple[tuple[int, str], ...] = ()
    """(row, which frame and what) of rows whose region may show more than the scan; recorded with pixels only."""

    def to_bytes(self) -> bytes:
        """Return the record's file content; it carries its own digest."""
        body: dict[str, Json] = {
            "shard": self.shard,
            "size": self.size,
            "table": self.table,
            "layer_digest": self.layer_digest,
            "soft": self.soft,
            "holes": [list(hole) for hole in self.holes],
        }
        if self.blank:  # absent in records of earlier versions
            body["blank"] = [list(row) for row in self.blank]
        if self.doubtful:
            body["doubtful"] = [list(row) for row in self.doubtful]
        return canonical({**body, "digest": digest_of(body)}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Commit:
        """Parse a record; raises DamageError when it is not exactly what was written."""
        body: dict[str, Any] = parse_json(data, where)
        stored = body.pop("digest", None)
        if digest_of(body) != stored:
            raise DamageError(f"{where}: the commit record does not match its own digest: damaged.")
        try:
            holes = tuple((int(row), str(reason)) for row, reason in body["holes"])
            return cls(
                int(body["shard"]),
                int(body["size"]),
                str(body["table"]),
                str(body["layer_digest"]),
                body["soft"],
                holes,
                tuple((int(row), str(what)) for row, what in body.get("blank", ())),
                tuple((int(row), str(what)) for row, what in body.get("doubtful", ())),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DamageError(f"{where}: the commit record is not whole ({error}).") from error


Commits = dict[str, dict[int, Commit]]
"""Layer name -> shard -> its record."""


def read_commit(storage: Storage, layer: Layer, shard: int) -> Commit | None:
    """Return a shard's record, None when it has none; raises DamageError on a damaged or foreign one."""
    try:
        return _parsed(storage, layer, shard, storage.read(layer.commit_name(shard)))
    except FileNotFoundError:
        return None


def _parsed(storage: Storage, layer: Layer, shard: int, data: bytes) -> Commit:
    where = f"{storage.url}/{layer.commit_name(shard)}"
    try:
        commit = Commit.from_bytes(data, where)
    except DamageError as error:
        error.layer, error.shard = layer.name, shard
        raise
    if commit.shard != shard or commit.layer_digest != layer.digest:
        raise DamageError(
            f"{where}: it records shard {commit.shard} of another place or layer: swapped or forged.",
            layer=layer.name, shard=shard,
        )  # fmt: skip
    return commit


def records(storage: Storage, layers: Sequence[Layer], known: Commits | None = None) -> Commits:
    """Return the records of shards, layer name -> shard -> record: one listing a layer, then all at once.

    A record that is damaged or another's counts as none.

    Args:
        storage: of the store.
        layers: of which layers.
        known: records that need not be read again where they are listed.
    """
    return _records(storage, layers, _listed_records(storage, layers), known or {})


def _listed_records(storage: Storage, layers: Sequence[Layer]) -> list[dict[int, Listed]]:
    """Return, for each layer, the shards that have a record, ascending, and what the listing says of the record."""
    found = []
    for names in storage.listings([f"commits/{layer.name}" for layer in layers]):
        stems = ((name.removesuffix(".json"), listed) for name, listed in names.items())
        found.append(dict(sorted((int(stem), listed) for stem, listed in stems if stem.isdecimal())))
    return found


def _records(storage: Storage, layers: Sequence[Layer], listed: Sequence[dict[int, Listed]], known: Commits) -> Commits:
    found: Commits = {}
    wanted: list[tuple[Layer, int]] = []
    for layer, shards in zip(layers, listed, strict=True):
        mine = known.get(layer.name, {})
        found[layer.name] = {shard: mine[shard] for shard in shards if shard in mine}
        wanted += [(layer, shard) for shard in shards if shard not in mine]
    shared: dict[str, Any] = {}

    def take(number: int, got: Found | None) -> None:
        layer, shard = wanted[number]
        with contextlib.suppress(DamageError):
            if got is not None:
                commit = _parsed(storage, layer, shard, got.parts[0])
                # Hundreds of thousands are held, and what made them is the same for most.
                soft = shared.setdefault(repr(commit.soft), commit.soft)
                digest = shared.setdefault(commit.layer_digest, commit.layer_digest)
                found[layer.name][shard] = replace(commit, soft=soft, layer_digest=digest)

    storage.read_many([Piece(layer.commit_name(shard)) for layer, shard in wanted], take)
    return found


def committed(storage: Storage, layer: Layer) -> dict[int, Commit]:
    """Return the finished shards of a layer; see `committed_layers`."""
    return committed_layers(storage, [layer])[layer.name]


def committed_layers(storage: Storage, layers: Sequence[Layer], known: Commits | None = None) -> Commits:
    """Return the finished shards of layers: those with a record and a file of the right size and table.

    A shard that differs from its record counts as not built; a record that can't be read too. Of those that are
    `known`, only the record's presence is looked at; of the others, the shard's end where no listing vouches for it.
    """
    known = known or {}
    listed = _listed_records(storage, layers)
    found = _records(storage, layers, listed, known)
    fresh = {
        layer.name: [commit for shard, commit in found[layer.name].items() if shard not in known.get(layer.name, {})]
        for layer in layers
    }
    asked = _unproven(storage, layers, listed, fresh)

    def take(number: int, got: Found | None) -> None:
        layer, commit = asked[number]
        if got is None or not _is_of(commit, layer, got):
            del found[layer.name][commit.shard]

    storage.read_many([_end(layer, commit.shard) for layer, commit in asked], take)
    return {name: dict(sorted(commits.items())) for name, commits in found.items()}


def _unproven(
    storage: Storage,
    layers: Sequence[Layer],
    records: Sequence[dict[int, Listed]],
    fresh: dict[str, list[Commit]],
) -> list[tuple[Layer, Commit]]:
    """Return those commits whose shard's end has to be looked at; in a bucket, few or none.

    A bucket takes an object whole or not at all, and says itself when that was. So an object of the recorded size that
    is no newer than its record, which was written after it, is the one that was recorded; any other that was put there
    is newer. A file may be cut in place, or put there with an older time: no listing vouches for it.
    """
    dated = [
        layer
        for layer, shards in zip(layers, records, strict=True)
        if any(shards[commit.shard].written is not None for commit in fresh[layer.name][:1])
    ]
    names = [layer.name for layer in dated]
    shown = dict(zip(names, storage.listings(names), strict=True)) if names else {}
    return [
        (layer, commit)
        for layer, record in zip(layers, records, strict=True)
        for commit in fresh[layer.name]
        if not _vouches(shown.get(layer.name, {}), layer, commit, record[commit.shard])
    ]


def _vouches(shards: dict[str, Listed], layer: Layer, commit: Commit, record: Listed) -> bool:
    """Return whether a listing of a layer's shards says that the one that was recorded is still there."""
    shard = shards.get(layer.shard_name(commit.shard).rpartition("/")[2])
    if shard is None or shard.written is None or record.written is None:
        return False
    return shard.size == commit.size and shard.written <= record.written


def _end(layer: Layer, shard: int) -> Piece:
    return Piece(layer.shard_name(shard), end=layer.layout.trailer_nbytes)


def shard_end(storage: Storage, layer: Layer, shard: int) -> Found | None:
    """Return a shard's size and the table and index at its end; None where it is missing."""
    found: list[Found | None] = []
    storage.read_many([_end(layer, shard)], lambda _, got: found.append(got))
    return found[0]


def _is_of(commit: Commit, layer: Layer, end: Found) -> bool:
    """Return whether a shard's size, table and index are those of its record (its rows are not read)."""
    try:
        parse_trailer(end.parts[0], end.size, layer.layout, commit.table, layer.shard_name(commit.shard))
    except DamageError:
        return False
    return end.size == commit.size


def committed_shard(storage: Storage, layer: Layer, shard: int) -> Commit | None:
    """Return the record of a finished shard; None when record or shard is missing, damaged or not of each other."""
    try:
        commit = read_commit(storage, layer, shard)
    except DamageError:  # not built: the builder makes it again, `verify` names it
        return None
    return commit if commit is not None and shard_matches(storage, layer, commit) else None


def shard_matches(storage: Storage, layer: Layer, commit: Commit) -> bool:
    """Return whether the shard file's size, table and index are those of its record (its rows are not read)."""
    end = shard_end(storage, layer, commit.shard)
    return end is not None and _is_of(commit, layer, end)


def whole_shard(storage: Storage, layer: Layer, shard: int, table: str) -> tuple[bytes, Trailer]:
    """Return a shard file and what its end says; its rows are yet to be checked, with `damaged_slots`.

    Raises:
        DamageError: it is missing, or not the one with that table (xxh3-128, hex).
    """
    name, layout = layer.shard_name(shard), layer.layout
    where = f"{storage.url}/{name}"
    try:
        data = storage.read(name, layout.size(layer.rows_per_shard))
        return data, parse_trailer(data[-layout.trailer_nbytes :], len(data), layout, table, where)
    except FileNotFoundError as error:
        raise DamageError(f"{where}: missing.", layer=layer.name, shard=shard) from error
    except DamageError as error:
        error.layer, error.shard = layer.name, shard
        raise
