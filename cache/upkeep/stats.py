"""Describe the latents of a store, dataset by dataset, without holding them in memory.

A Dask graph reads a shard per task, on threads here or on a cluster, and merges what the tasks find in a tree. Moments
are merged as by Chan, Golub and LeVeque (1979): counts, means and sums of squared deviations, in float64.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from usjepa.cache.building.recheck import as_float
from usjepa.cache.errors import UsageError
from usjepa.cache.frames.blank import blank_lines, why_blank
from usjepa.cache.frames.cells import unpack_cells
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.origins.spacing import spacing_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.store.layers import Layer

_FAN_IN = 8
_CONSTANT = 1e-6
"""A channel whose standard deviation is under this share of the median channel's says nothing."""


@dataclass(frozen=True)
class Moments:
    """Of the patch tokens of some rows, and of the rows' mean tokens."""

    tokens: int
    mean_D: NDArray[np.float64]
    deviation_D: NDArray[np.float64]
    """Sum of squared deviations from the mean, over tokens."""
    rows: int
    pooled_mean_D: NDArray[np.float64]
    pooled_scatter_DD: NDArray[np.float64]
    """Sum of outer products of the deviations of rows' mean tokens."""
    not_finite: int
    """Values that are NaN or infinite; their tokens are left out of everything else."""

    @property
    def variance(self) -> NDArray[np.float64]:
        """[D] variance of each channel over tokens."""
        return self.deviation_D / max(self.tokens, 1)

    @property
    def constant_channels(self) -> list[int]:
        """Channels that do not vary."""
        spread = np.sqrt(self.variance)
        return [int(i) for i in np.flatnonzero(spread <= _CONSTANT * float(np.median(spread)))]

    @property
    def effective_rank(self) -> float:
        """Effective rank of the rows' mean tokens: exp of the entropy of the singular values' shares.

        Roy and Vetterli (2007); RankMe (Garrido et al. 2023) uses the same figure on features that are not centred.
        """
        eigenvalues = np.linalg.eigvalsh(self.pooled_scatter_DD).clip(min=0)
        shares = np.sqrt(eigenvalues)
        if shares.sum() == 0:
            return 0.0
        shares = shares[shares > 0] / shares.sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))


@dataclass
class Part:
    """What is known of some shards."""

    moments: dict[str, Moments] = field(default_factory=dict)
    """Dataset -> moments."""
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)
    """[n, 2] xxh3-128 of each row's pixels, aligned with `rows`."""
    blank: list[tuple[int, str]] = field(default_factory=list)
    """Rows that show no echo, and why."""


@dataclass(frozen=True)
class Stats:
    """What `stats` found."""

    teacher: str
    moments: dict[str, Moments]
    duplicates: list[list[int]]
    """Groups of rows whose pixels are the same, each ascending."""
    blank: list[tuple[int, str]] = field(default_factory=list)
    """Rows that show no echo, ascending, with the frame that each shows and why it is blank."""
    spacing: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    """[R', 2] millimetres per stored pixel, down and across; NaN where that is not known."""

    def to_json(self) -> dict[str, Json]:
        """Return everything, channel by channel."""
        datasets = {
            name: {
                "rows": m.rows, "tokens": m.tokens, "not_finite": m.not_finite, "effective_rank": m.effective_rank,
                "constant_channels": m.constant_channels, "mean": m.mean_D.tolist(), "variance": m.variance.tolist(),
            }
            for name, m in sorted(self.moments.items())
        }  # fmt: skip
        blank = [list(row) for row in self.blank]
        known = self.spacing[~np.isnan(self.spacing).any(axis=1)]
        spacing: dict[str, Json] = {"rows": len(known)}
        if len(known):
            spacing |= {"smallest_mm": known.min(axis=0).tolist(), "largest_mm": known.max(axis=0).tolist()}
        return {
            "teacher": self.teacher, "datasets": datasets, "duplicates": self.duplicates, "blank": blank,
            "spacing": spacing,
        }  # fmt: skip

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
        lines += [f"rows that show no echo: {len(self.blank):,}", *blank_lines(self.blank), spacing_text(self.spacing)]
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
    datasets, codes = np.unique(opened.table.dataset.astype(str), return_inverse=True)
    layers = ["pixels", *(layer for layer in (f"latents/{name}", f"scales/{name}") if layer in opened.layers)]
    arrays = [opened.dask_array(layer) for layer in layers]
    ends = np.cumsum(arrays[0].chunks[0])
    blocks = zip(*(array.to_delayed().ravel() for array in arrays), strict=True)
    parts = zip(np.split(opened.rows, ends[:-1]), np.split(codes, ends[:-1]), blocks, strict=True)
    layer = opened.layers[f"latents/{name}"]
    cells = opened.dask_array("regions").to_delayed().ravel() if "regions" in opened.layers else [None] * len(ends)
    level = [
        delayed(_part_of)(layer, rows, datasets, code, region, *stored)
        for (rows, code, stored), region in zip(parts, cells, strict=True)
    ]
    while len(level) > 1:
        level = [delayed(_join)(level[i : i + _FAN_IN]) for i in range(0, len(level), _FAN_IN)]
    with _scheduler(dask):
        (whole,) = compute(level[0])
    position = {int(row): place for place, row in enumerate(opened.rows)} if whole.blank else {}
    blank = [(row, f"{opened.table.origin(position[row])}: {why}") for row, why in sorted(whole.blank)]
    return Stats(str(name), whole.moments, _duplicates(whole), blank, opened.spacing)


@contextlib.contextmanager
def _scheduler(address: str | None) -> Any:
    """Compute within on a cluster, or on the threads of this process."""
    import dask

    if address is None:
        with dask.config.set(scheduler="threads"):
            yield
        return
    from usjepa.cache.building.cluster.connecting import connect

    with connect(address):  # the newest client is where Dask computes
        yield


def _part_of(
    layer: Layer,
    rows: NDArray[np.int64],
    datasets: NDArray[np.str_],
    dataset: NDArray[np.int64],
    cells: NDArray[np.uint8] | None,
    pixels: NDArray[np.uint8],
    latents: NDArray[Any],
    scales: NDArray[np.float32] | None = None,
) -> Part:
    """Return what one shard holds: [R] rows, `dataset` [R] their places in `datasets`, and their stored arrays."""
    values = as_float(layer, latents, scales)
    digests = [xxhash.xxh3_128_digest(row) for row in pixels]
    return Part(
        {str(datasets[code]): moments_of(values[dataset == code]) for code in np.unique(dataset)},
        [rows],
        [np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)],
        _blank_rows(rows, pixels, cells),
    )


def _blank_rows(
    rows: NDArray[np.int64], pixels_RCSS: NDArray[np.uint8], cells_Rn: NDArray[np.uint8] | None
) -> list[tuple[int, str]]:
    """Return the rows whose stored pixels or region show no echo, and why."""
    size = pixels_RCSS.shape[-1]
    region = np.ones((len(rows), 1, 1), np.bool_) if cells_Rn is None else unpack_cells(cells_Rn, size)
    images = pixels_RCSS[:, 0] if pixels_RCSS.shape[1] == 1 else pixels_RCSS.transpose(0, 2, 3, 1)
    whys = ((int(row), why_blank(image, part)) for row, image, part in zip(rows, images, region, strict=True))
    return [(row, why) for row, why in whys if why]


def _join(parts: list[Part]) -> Part:
    joined = Part()
    for part in parts:
        for name, moments in part.moments.items():
            joined.moments[name] = merged(joined.moments[name], moments) if name in joined.moments else moments
        joined.rows += part.rows
        joined.hashes += part.hashes
        joined.blank += part.blank
    return joined


def _duplicates(whole: Part) -> list[list[int]]:
    rows, hashes = np.concatenate(whole.rows), np.concatenate(whole.hashes)
    order = np.lexsort((rows, hashes[:, 1], hashes[:, 0]))
    new = np.r_[True, (np.diff(hashes[order].view(np.int64), axis=0) != 0).any(axis=1)]
    groups = np.split(rows[order], np.flatnonzero(new)[1:])
    return sorted([int(row) for row in group] for group in groups if len(group) > 1)


def moments_of(latents_RTD: NDArray[np.float32]) -> Moments:
    """Return the moments of some rows' latents."""
    dim = latents_RTD.shape[2]
    finite = np.isfinite(latents_RTD)
    bad = int(latents_RTD.size - finite.sum())
    whole = finite.all(axis=(1, 2))
    tokens = latents_RTD[finite.all(axis=2)].astype(np.float64)
    pooled = latents_RTD[whole].mean(axis=1, dtype=np.float64)
    mean = tokens.mean(axis=0) if len(tokens) else np.zeros(dim)
    pooled_mean = pooled.mean(axis=0) if len(pooled) else np.zeros(dim)
    centred = pooled - pooled_mean
    deviation = np.square(tokens - mean).sum(axis=0)
    return Moments(len(tokens), mean, deviation, len(pooled), pooled_mean, centred.T @ centred, bad)


def merged(a: Moments, b: Moments) -> Moments:
    """Return the moments of both parts together."""
    tokens, rows = a.tokens + b.tokens, a.rows + b.rows
    step, pooled_step = b.mean_D - a.mean_D, b.pooled_mean_D - a.pooled_mean_D
    share, pooled_share = b.tokens / max(tokens, 1), b.rows / max(rows, 1)
    return Moments(
        tokens,
        a.mean_D + step * share,
        a.deviation_D + b.deviation_D + np.square(step) * a.tokens * share,
        rows,
        a.pooled_mean_D + pooled_step * pooled_share,
        a.pooled_scatter_DD + b.pooled_scatter_DD + np.outer(pooled_step, pooled_step) * a.rows * pooled_share,
        a.not_finite + b.not_finite,
    )
