"""Record every finished shard in a JSON file; a shard without one is made again.

A record holds nothing that depends on time, host or process, so that a build that was killed and resumed
leaves the same bytes as one that was not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import DamageError
from usjepa.cache.identity import Json, canonical, digest_of, parse_json
from usjepa.cache.store.shard import Trailer, parse_trailer

if TYPE_CHECKING:
    from usjepa.cache.storage.protocol import Storage
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


def read_commit(storage: Storage, layer: Layer, shard: int) -> Commit | None:
    """Return a shard's record, None when it has none; raises DamageError on a damaged or foreign one."""
    name = layer.commit_name(shard)
    where = f"{storage.url}/{name}"
    try:
        commit = Commit.from_bytes(storage.read(name), where)
    except FileNotFoundError:
        return None
    except DamageError as error:
        error.layer, error.shard = layer.name, shard
        raise
    if commit.shard != shard or commit.layer_digest != layer.digest:
        raise DamageError(
            f"{where}: it records shard {commit.shard} of another place or layer: swapped or forged.",
            layer=layer.name, shard=shard,
        )  # fmt: skip
    return commit


def committed(storage: Storage, layer: Layer) -> dict[int, Commit]:
    """Return the finished shards of a layer: those with a record and a file of the right size and table.

    A shard that differs from its record counts as not built; a record that can't be read too.
    """
    found = {}
    for name in storage.names(f"commits/{layer.name}"):
        stem = name.removesuffix(".json")
        if not stem.isdigit():
            continue
        commit = committed_shard(storage, layer, int(stem))
        if commit is not None:
            found[commit.shard] = commit
    return found


def committed_shard(storage: Storage, layer: Layer, shard: int) -> Commit | None:
    """Return the record of a finished shard; None when record or shard is missing, damaged or not of each other."""
    try:
        commit = read_commit(storage, layer, shard)
    except DamageError:  # not built: the builder makes it again, `verify` names it
        return None
    return commit if commit is not None and shard_matches(storage, layer, commit) else None


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


def shard_matches(storage: Storage, layer: Layer, commit: Commit) -> bool:
    """Return whether the shard file's size, table and index are those of its record (its rows are not read)."""
    name, length = layer.shard_name(commit.shard), layer.layout.trailer_nbytes
    if storage.size(name) != commit.size or commit.size < length:
        return False
    trailer = storage.read_range(name, commit.size - length, length)
    try:
        parse_trailer(trailer, commit.size, layer.layout, commit.table, name)
    except DamageError:
        return False
    return True
