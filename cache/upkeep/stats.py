"""`usjepa-cache stats`: what the latents of a store look like, dataset by dataset, without holding them in memory.

A Dask graph reads a shard a task and merges in a tree, on threads here or on a cluster. Each task holds one shard.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from usjepa.cache.building.recheck import as_float
from usjepa.cache.errors import UsageError
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.upkeep.moments import Moments, merged, moments_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json

_FAN_IN = 8


@dataclass
class Part:
    """What is known of some shards."""

    moments: dict[str, Moments] = field(default_factory=dict)
    """Dataset -> moments."""
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)
    """[n, 2] xxh3-128 of each row's pixels, aligned with `rows`."""


@dataclass(frozen=True)
class Stats:
    """What `stats` found."""

    teacher: str
    moments: dict[str, Moments]
    duplicates: list[list[int]]
    """Groups of rows whose pixels are the same, each ascending."""

    def to_json(self) -> dict[str, Json]:
        """Return everything, channel by channel."""
        datasets = {
            name: {
                "rows": m.rows, "tokens": m.tokens, "not_finite": m.not_finite, "effective_rank": m.effective_rank,
                "constant_channels": m.constant_channels, "mean": m.mean_D.tolist(), "variance": m.variance.tolist(),
            }
            for name, m in sorted(self.moments.items())
        }  # fmt: skip
        return {"teacher": self.teacher, "datasets": datasets, "duplicates": self.duplicates}

    def __str__(self) -> str:
        width = max(len(name) for name in [*self.moments, "dataset"])
        lines = [f"{'dataset':{width}s} {'rows':>9s} {'effective rank':>14s} {'std min':>9s} {'median':>9s} "
                 f"{'max':>9s} {'constant':>8s} {'not finite':>10s}"]  # fmt: skip
        for name, m in sorted(self.moments.items()):
            low, middle, high = np.quantile(np.sqrt(m.variance), (0, 0.5, 1))
            lines.append(
                f"{name:{width}s} {m.rows:9,d} {m.effective_rank:8.1f} of {len(m.mean_D):<3d} {low:9.3g} {middle:9.3g} "
                f"{high:9.3g} {len(m.constant_channels):8,d} {m.not_finite:10,d}"
            )
        extra = sum(len(group) - 1 for group in self.duplicates)
        lines.append(f"rows whose pixels another row has too: {extra:,}" + self._examples())
        return "\n".join(lines)

    def _examples(self) -> str:
        shown = ["=".join(map(str, group[:4])) for group in self.duplicates[:5]]
        return f" (such as {', '.join(shown)})" if shown else ""


def stats(store: str, teacher: str | None = None, dask: str | None = None) -> Stats:
    """Compute statistics of a sealed store.

    Args:
        store: folder or URL.
        teacher: whose latents; none: the store's only teacher.
        dask: address of a scheduler, or `local:N`; none: threads of this process.

    Raises:
        UsageError: no such teacher.
        DamageError: stored bytes are not what was built.
    """
    from dask.base import compute
    from dask.delayed import delayed

    opened = open_store(store, threads=1)
    name = teacher or (opened.latents[0] if len(opened.latents) == 1 else None)
    if name not in opened.latents:
        raise UsageError(f"{store}: say whose latents with --teacher; it holds {', '.join(opened.latents) or 'none'}.")
    shards = sorted({int(row) // opened.manifest.rows_per_shard for row in opened.rows})
    shared = delayed(opened, pure=False)
    level = [delayed(_part_of)(shared, name, shard) for shard in shards]
    while len(level) > 1:
        level = [delayed(_join)(level[i : i + _FAN_IN]) for i in range(0, len(level), _FAN_IN)]
    with _scheduler(dask):
        (whole,) = compute(level[0])
    return Stats(str(name), whole.moments, _duplicates(whole))


@contextlib.contextmanager
def _scheduler(address: str | None) -> Any:
    """Compute within on a cluster, or on the threads of this process."""
    import dask

    if address is None:
        with dask.config.set(scheduler="threads"):
            yield
        return
    from usjepa.cache.building.cluster import connect

    with connect(address):  # the newest client is where Dask computes
        yield


def _part_of(store: Store, teacher: str, shard: int) -> Part:
    """Return what one shard holds."""
    first = shard * store.manifest.rows_per_shard
    start, stop = np.searchsorted(store.rows, (first, first + store.manifest.rows_per_shard))
    rows = store.rows[start:stop]
    batch = store.read(rows, teacher=teacher)
    latents = as_float(store.layers[f"latents/{teacher}"], batch.latents, batch.scales)
    datasets = store.table.dataset[start:stop].astype(str)
    digests = [xxhash.xxh3_128_digest(row) for row in batch.pixels]
    return Part(
        {str(name): moments_of(latents[datasets == name]) for name in np.unique(datasets)},
        [rows],
        [np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)],
    )


def _join(parts: list[Part]) -> Part:
    joined = Part()
    for part in parts:
        for name, moments in part.moments.items():
            joined.moments[name] = merged(joined.moments[name], moments) if name in joined.moments else moments
        joined.rows += part.rows
        joined.hashes += part.hashes
    return joined


def _duplicates(whole: Part) -> list[list[int]]:
    rows, hashes = np.concatenate(whole.rows), np.concatenate(whole.hashes)
    order = np.lexsort((rows, hashes[:, 1], hashes[:, 0]))
    new = np.r_[True, (np.diff(hashes[order].view(np.int64), axis=0) != 0).any(axis=1)]
    groups = np.split(rows[order], np.flatnonzero(new)[1:])
    return sorted([int(row) for row in group] for group in groups if len(group) > 1)
