"""Describe a sealed state of a store, a generation, completely in one manifest.

The manifest is the only truth about extent and state: which rows exist, in which layers, and what the checksum
table of every shard hashes to. It is written last, by rename, so a reader sees one whole generation or another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import DamageError
from usjepa.cache.identity import Json, canonical, digest_of, parse_json
from usjepa.cache.places.runs import Runs
from usjepa.cache.store.layers import Layer, format_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

NEWEST = "manifest.json"
_MAX_ROWS = 1 << 48


def generation_name(generation: int) -> str:
    """Return the file name of a generation's manifest."""
    return f"manifests/{generation:06d}.json"


@dataclass(frozen=True)
class Segment:
    """What one scan added; it starts on a shard boundary."""

    number: int
    first_row: int
    rows: int
    """Row numbers first_row .. first_row + rows - 1, minus the holes."""
    sources_hash: str
    """xxh3-128 (hex) of sources.parquet."""
    rows_hash: str
    """xxh3-128 (hex) of rows.parquet."""

    @property
    def folder(self) -> str:
        """Return the segment's folder in the store."""
        return f"segments/{self.number:06d}"

    def shards(self, rows_per_shard: int) -> range:
        """Return the numbers of the shards the segment fills."""
        return range(self.first_row // rows_per_shard, -(-(self.first_row + self.rows) // rows_per_shard))

    def to_json(self) -> dict[str, Json]:
        """Return the segment as `segment.json` and a manifest hold it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, data: Any, where: str) -> Segment:
        """Rebuild a segment; raises DamageError when a field is missing or absurd."""
        try:
            segment = cls(
                int(data["number"]),
                int(data["first_row"]),
                int(data["rows"]),
                str(data["sources_hash"]),
                str(data["rows_hash"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DamageError(f"{where}: the description of a segment is not whole ({error}).") from error
        if segment.number < 1 or segment.first_row < 0 or not 0 < segment.rows < _MAX_ROWS:
            raise DamageError(f"{where}: segment {segment.number} of {segment.rows} rows is not plausible.")
        return segment


def rows_of(segments: Sequence[Segment], holes: Iterable[int]) -> Runs:
    """Return the rows of segments without holes, each of which lies in one of them."""
    missing = np.fromiter(holes, np.int64)
    first = np.array([segment.first_row for segment in segments], np.int64)
    stop = first + np.array([segment.rows for segment in segments], np.int64)
    starts, stops = np.sort(np.concatenate([first, missing + 1])), np.sort(np.concatenate([stop, missing]))
    return Runs.of(starts, stops - starts)


@dataclass(frozen=True)
class Manifest:
    """One sealed state of a store."""

    generation: int
    rows_per_shard: int
    segments: tuple[Segment, ...]
    layers: Mapping[str, Layer]
    tables: Mapping[str, tuple[str, ...]]
    """Layer name -> xxh3-128 (hex) of every shard's table, by shard number."""
    soft: Mapping[str, tuple[tuple[int, dict[str, Json]], ...]]
    """Layer name -> (first shard, soft identity) wherever it changes."""
    holes: tuple[tuple[int, str], ...]
    """(row, reason) of rows whose frame could not be read, ascending."""
    repaired: tuple[dict[str, Json], ...] = ()
    """What `verify --repair` mended, oldest first: layer, shard, rows, and whether with the very bytes of before."""
    audits: tuple[dict[str, Json], ...] = ()
    """What `audit` found, oldest first."""
    removed: tuple[dict[str, Json], ...] = ()
    """What `remove` took away, oldest first: the generation since which it is gone, and how many rows."""

    def rows(self) -> Runs:
        """Return the rows that exist."""
        return rows_of(self.segments, (row for row, _ in self.holes))

    def row_numbers(self) -> NDArray[np.int64]:
        """Return the rows that exist, ascending, int64 [R']."""
        return np.asarray(self.rows())

    @property
    def extent(self) -> int:
        """One past the last row number of the newest segment."""
        return self.segments[-1].first_row + self.segments[-1].rows if self.segments else 0

    @property
    def shard_count(self) -> int:
        """Shards of each layer."""
        return self.segments[-1].shards(self.rows_per_shard).stop if self.segments else 0

    @property
    def withdrawn_since(self) -> int:
        """The newest generation that took rows away, 0 for none: earlier ones can't be read."""
        return max((int(entry["generation"]) for entry in self.removed), default=0)

    def body(self) -> dict[str, Json]:
        """Return everything but the generation number: equal bodies are the same state."""
        histories = {"repaired": self.repaired, "audits": self.audits, "removed": self.removed}
        return {
            # Absent while empty: a store that was never repaired or audited has the same bytes as ever.
            **{key: list(entries) for key, entries in histories.items() if entries},
            "format": format_of(self.layers.values()),
            "rows_per_shard": self.rows_per_shard,
            "segments": [segment.to_json() for segment in self.segments],
            "layers": {
                name: {
                    **layer.to_json(),
                    "tables": list(self.tables[name]),
                    "soft": [[first, values] for first, values in self.soft[name]],
                }
                for name, layer in self.layers.items()
            },
            "holes": [list(hole) for hole in self.holes],
        }

    @property
    def digest(self) -> str:
        """xxh3-128 (hex) of the body: what a run remembers of the state it began on."""
        return digest_of(self.body())

    def content_digest(self, layers: Iterable[str] = ()) -> str:
        """Return the xxh3-128 (hex) of which rows exist, what they show, and what they hold in some layers.

        Unlike `digest` it stays the same after an audit, another teacher's layer, and a repair that gave the very bytes
        of before (without `layers`: after any repair).

        Args:
            layers: names of layers whose stored bytes count as well.
        """
        pixels = self.layers.get("pixels")
        return digest_of(
            {
                "segments": [segment.to_json() for segment in self.segments],
                "rows_per_shard": self.rows_per_shard,
                "holes": [row for row, _ in self.holes],
                "pixels": None if pixels is None else pixels.digest,
                "tables": {name: list(self.tables[name]) for name in layers},
            }
        )

    def to_bytes(self) -> bytes:
        """Return the manifest's file content."""
        body = {"generation": self.generation, **self.body()}
        return canonical({**body, "digest": digest_of(body)}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parse and check a manifest; raises DamageError on anything but what was written."""
        body = parse_json(data, where)
        stored = body.pop("digest", None)
        if digest_of(body) != stored:
            raise DamageError(f"{where}: the manifest does not match its own digest: damaged.")
        try:
            layers = {name: Layer.from_json(name, entry, where) for name, entry in body["layers"].items()}
            manifest = cls(
                int(body["generation"]),
                int(body["rows_per_shard"]),
                tuple(Segment.from_json(entry, where) for entry in body["segments"]),
                layers,
                {name: tuple(str(t) for t in entry["tables"]) for name, entry in body["layers"].items()},
                {name: tuple((int(i), s) for i, s in entry["soft"]) for name, entry in body["layers"].items()},
                tuple((int(row), str(reason)) for row, reason in body["holes"]),
                *(tuple(dict(entry) for entry in body.get(key, ())) for key in ("repaired", "audits", "removed")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DamageError(f"{where}: the manifest is not whole ({error}).") from error
        manifest._check(where)
        return manifest

    def _check(self, where: str) -> None:
        if not 0 < self.rows_per_shard <= 65536:
            raise DamageError(f"{where}: {self.rows_per_shard} rows a shard are not plausible.")
        boundary = 0
        for segment in self.segments:
            if segment.first_row != boundary * self.rows_per_shard:
                raise DamageError(f"{where}: segment {segment.number} does not start where the one before it ends.")
            boundary = segment.shards(self.rows_per_shard).stop
        if not {"pixels", "regions"} <= set(self.layers) or not self.segments:
            raise DamageError(f"{where}: a store without pixels, regions or segments is none.")
        for name, layer in self.layers.items():
            if layer.rows_per_shard != self.rows_per_shard or len(self.tables[name]) != boundary:
                raise DamageError(f"{where}: layer {name} lists {len(self.tables[name])} of {boundary} shards.")
            firsts = [first for first, _ in self.soft[name]]
            if firsts[:1] != [0] or firsts != sorted(set(firsts)) or firsts[-1] >= boundary:
                raise DamageError(f"{where}: layer {name} does not say what each of its shards was made with.")
        rows = [row for row, _ in self.holes]
        if rows and (rows != sorted(set(rows)) or rows[0] < 0 or rows[-1] >= self.extent):
            raise DamageError(f"{where}: it lists holes where no row is.")
        _check_history(self.repaired, {"layer": str, "shard": int, "rows": list, "exact": bool}, where)
        _check_history(self.removed, {"generation": int, "rows": int}, where)
        _check_history(self.audits, {"layer": str, "rows": int, "relative_error": float, "passed": bool}, where)


def _check_history(entries: tuple[dict[str, Json], ...], fields: dict[str, type], where: str) -> None:
    for entry in entries:
        if not all(isinstance(entry.get(name), kind) for name, kind in fields.items()):
            raise DamageError(f"{where}: an entry about a repair, an audit or a removal is not whole.")
