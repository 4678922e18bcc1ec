"""Plan a withdrawal: the rows that go, and tables and generation without them.

A withdrawn source keeps its line, since rows are numbered by lines, and loses all that tells of it: path, group, label,
split, sizes. In place of its content's hash stands the hash of that hash, by which a build recognises the file, should
it still lie among the sources, and leaves it out. Its rows are holes; where they lay in their frames is zeroed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.identity import canonical, digest_of, parse_json
from usjepa.cache.store.origins.segment_tables import read_tables
from usjepa.cache.store.tables import WITHDRAWN, RowTable, SourceTable, tombstone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest, Segment

_HINT = (
    "Names are those of the store's tables, hashes where it was built with --hash-paths (`usjepa-cache scan --names` "
    "tells which): open_store(STORE).table.sources lists them."
)


@dataclass(frozen=True)
class Choice:
    """Who withdraws: groups, sources or data sets, by name."""

    groups: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.sources and (self.groups or self.datasets)) or not any(self._kinds):
            raise UsageError(
                "say who withdraws: --group G, --source P or --dataset D, one kind of them (repeatable); --dataset "
                "with --group takes the groups of that data set alone."
            )
        if not all(name.strip() for kind in self._kinds for name in kind):
            raise UsageError(
                f"an empty name of a {self._kind}: is a variable of the shell not set? Nothing is removed. Sources "
                "that have no group or data set are named one by one: --source P."
            )

    def __str__(self) -> str:
        of = f" of dataset {', '.join(self.datasets)}" if self.groups and self.datasets else ""
        return f"{self._kind} {', '.join(self._names)}{of}"

    @property
    def _kinds(self) -> tuple[tuple[str, ...], ...]:
        return self.groups, self.sources, self.datasets

    @property
    def _kind(self) -> str:
        return "group" if self.groups else "source" if self.sources else "dataset"

    @property
    def _names(self) -> tuple[str, ...]:
        return self.groups or self.sources or self.datasets

    def without(self, done: Choice | None) -> Choice | None:
        """Return what is left to remove after another removal; None where that took all of it."""
        if done is None or self._kind != done._kind or not self._is_within(done):
            return self
        left = tuple(name for name in self._names if name not in done._names)
        return replace(self, **{f"{self._kind}s": left}) if left else None

    def _is_within(self, done: Choice) -> bool:
        """Return whether groups are taken from data sets from which another removal took groups too."""
        taken = set(self.datasets)
        return not (self.groups and done.datasets) or (bool(taken) and taken <= set(done.datasets))

    def to_bytes(self) -> bytes:
        """Return it as a line."""
        body: Json = {"groups": list(self.groups), "sources": list(self.sources), "datasets": list(self.datasets)}
        return canonical({"choice": body, "digest": digest_of(body)}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Choice:
        """Parse what `to_bytes` wrote; raises DamageError on anything else."""
        read = parse_json(data, where)
        body = read.get("choice")
        if not isinstance(body, dict) or digest_of(body) != read.get("digest"):
            raise DamageError(f"{where}: who withdraws does not match its own digest: damaged.")
        return cls(*(tuple(body[kind]) for kind in ("groups", "sources", "datasets")))

    def column_of(self, table: SourceTable) -> NDArray[np.object_]:
        """Return the names that are compared, of each source."""
        return table.group if self.groups else table.path if self.sources else table.dataset

    def of(self, table: SourceTable) -> NDArray[np.bool_]:
        """Return which sources of a table withdraw."""
        chosen: NDArray[np.bool_] = np.isin(self.column_of(table).astype(str), self._names) & (table.error != WITHDRAWN)
        return chosen & self._among(table)

    def _among(self, table: SourceTable) -> NDArray[np.bool_]:
        """Return which sources are of the data sets that groups are taken from."""
        narrowed = bool(self.groups and self.datasets)
        among: NDArray[np.bool_] = np.isin(table.dataset.astype(str), self.datasets) | (not narrowed)
        return among

    def missing(self, tables: Sequence[SourceTable]) -> list[str]:
        """Return the names that no table has."""
        known = {str(name) for table in tables for name in self.column_of(table)[self._among(table)]}
        datasets = {str(name) for table in tables for name in table.dataset} if self.groups else known
        missing = [name for name in self.datasets if name not in datasets]
        return [name for name in self._names if name not in known] + (missing if self.groups else [])


@dataclass(frozen=True)
class Thinned:
    """A segment without the sources that withdraw."""

    segment: Segment
    """With the hashes of its new tables."""
    sources: bytes
    rows: bytes
    """Both tables, as Parquet."""
    withdrawn: NDArray[np.int64]
    """Numbers of all rows of these sources, those that were holes among them."""
    files: int
    """Sources that withdraw."""
    groups: frozenset[tuple[str, str]]
    """(group, data set) of these sources."""


def thin_segments(storage: Storage, manifest: Manifest, choice: Choice) -> list[Thinned]:
    """Return the segments that change; raises UsageError where a name is not in the store."""
    tables = [read_tables(storage, segment) for segment in manifest.segments]
    unknown = choice.missing([sources for sources, _ in tables])
    if unknown:
        raise UsageError(f"{storage.url}: has no {choice} (not found: {', '.join(unknown)}). {_HINT}")
    stays = {
        str(name) for sources, _ in tables for name in sources.dataset[~choice.of(sources) & (sources.error == "")]
    }
    found = []
    for segment, (sources, rows) in zip(manifest.segments, tables, strict=True):
        gone = choice.of(sources)
        if gone.any():
            found.append(_thinned(segment, sources, rows, gone, stays))
    return found


def _thinned(
    segment: Segment, sources: SourceTable, rows: RowTable, gone: NDArray[np.bool_], stays: set[str]
) -> Thinned:
    withdrawn = gone[rows.source]
    columns = rows.columns()
    zeroed = {name: _with(column, withdrawn, _nothing(column)) for name, column in columns.items() if name != "source"}
    described = _without(sources, gone, stays).to_parquet()
    lines = replace(rows, **zeroed).to_parquet()
    hashes = [xxhash.xxh3_128_hexdigest(table) for table in (described, lines)]
    return Thinned(
        replace(segment, sources_hash=hashes[0], rows_hash=hashes[1]),
        described,
        lines,
        segment.first_row + np.flatnonzero(withdrawn),
        int(gone.sum()),
        frozenset(zip(sources.group[gone].astype(str), sources.dataset[gone].astype(str), strict=True)),
    )


def _without(sources: SourceTable, gone: NDArray[np.bool_], stays: set[str]) -> SourceTable:
    """Return a table whose lines of sources that withdraw tell nothing; `stays` are data sets that have others."""
    columns = sources.columns()
    for name, column in columns.items():
        value = _nothing(column)
        if name in ("path", "group", "reader", "error"):
            value = WITHDRAWN
        if name not in ("dataset", "content_hash"):
            columns[name] = _with(column, gone, value)
    unnamed = gone & ~np.isin(sources.dataset.astype(str), sorted(stays))
    columns["dataset"] = _with(sources.dataset, unnamed, WITHDRAWN)
    columns["content_hash"] = sources.content_hash.copy()
    columns["content_hash"][gone] = [tombstone(str(content)) for content in sources.content_hash[gone]]
    return SourceTable(**columns)


def _nothing(column: NDArray[Any]) -> Any:
    """Return what stands in a column for nothing told: NaN for lengths, which are unknown then."""
    return "" if column.dtype == object else np.nan if column.dtype.kind == "f" else 0


def _with(column: NDArray[Any], where: NDArray[np.bool_], value: Any) -> NDArray[Any]:
    changed = column.copy()
    changed[where] = value
    return changed


def next_generation(manifest: Manifest, thinned: Sequence[Thinned], tables: Mapping[tuple[str, int], str]) -> Manifest:
    """Return the generation after a withdrawal.

    Args:
        manifest: the newest one.
        thinned: the segments that change.
        tables: (layer, shard) -> hash of the table of a shard that is written anew.
    """
    segments = {one.segment.number: one.segment for one in thinned}
    rows = {int(row) for one in thinned for row in one.withdrawn}
    before = {row for row, _ in manifest.holes}
    holes = {row: why for row, why in manifest.holes if row not in rows} | dict.fromkeys(rows, WITHDRAWN)
    generation = manifest.generation + 1
    return replace(
        manifest,
        generation=generation,
        segments=tuple(segments.get(segment.number, segment) for segment in manifest.segments),
        tables={
            name: tuple(tables.get((name, shard), table) for shard, table in enumerate(hashes))
            for name, hashes in manifest.tables.items()
        },
        holes=tuple(sorted(holes.items())),
        removed=(*manifest.removed, {"generation": generation, "rows": len(rows - before)}),
    )
