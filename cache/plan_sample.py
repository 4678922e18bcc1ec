"""A sample of a source, scanned: how many frames the whole holds, and how long its scan will take."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import SourceError
from usjepa.cache.scan import chosen_frames, scan
from usjepa.cache.sources.hdf5_path import split_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.settings import CacheSettings
    from usjepa.cache.sources.base import Entry
    from usjepa.cache.sources.listing import Listing
    from usjepa.cache.tables import SourceTable

_CHUNK = 16
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A sum over all sources, from a sample of them."""

    value: float
    error: float
    """One standard error; 0 when every source was looked at."""


@dataclass(frozen=True)
class Sample:
    """Sources drawn at random, and what follows for all."""

    table: SourceTable
    """Of the drawn sources, in the order of the draw."""
    frames: Estimate
    """Frames that a build would take."""
    scan_seconds: Estimate
    frames_by_dataset: dict[str, float] = field(default_factory=dict)


def draw_sample(
    listing: Listing, settings: CacheSettings, rows: int, seconds: float, check: Callable[[], None]
) -> Sample:
    """Scan sources in random order until they hold `rows` rows, all are scanned, or `seconds` are over.

    Raises:
        SourceError: none of the sources looked at can be read.
    """
    order = np.random.default_rng(_SEED).permutation(len(listing.entries))
    entries = [listing.entries[i] for i in order]
    tables: list[SourceTable] = []
    took: list[float] = []
    start, found = time.perf_counter(), 0
    while len(took) < len(entries) and (not tables or time.perf_counter() - start < seconds) and found < rows:
        chunk = tuple(entries[len(took) : len(took) + _CHUNK])
        marks: list[float] = []

        def at_source(marks: list[float] = marks) -> None:
            marks.append(time.perf_counter())
            check()

        tables.append(scan(replace(listing, entries=chunk), settings, None, "skip", at_source))
        marks.append(time.perf_counter())
        spans = np.diff(marks)
        # The first source of a chunk also starts the child that decodes; a build starts it once.
        took += spans.tolist() if len(spans) < 2 else [float(np.median(spans[1:])), *spans[1:].tolist()]
        found += _rows(tables[-1], settings).sum()
    table = _joined(tables)
    if not table.frames.any():
        raise SourceError(
            f"none of {len(table)} sources looked at can be read, first: {table.path[0]}: {table.error[0]}"
        )
    return _extrapolated(table, took, entries, listing, settings)


def _rows(table: SourceTable, settings: CacheSettings) -> NDArray[np.int64]:
    most = settings.max_frames_per_source
    return np.array([len(chosen_frames(int(n), most)) for n in table.frames], np.int64) * settings.views.count


def _joined(tables: Sequence[SourceTable]) -> SourceTable:
    columns = [table.columns() for table in tables]
    return type(tables[0])(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})


def _extrapolated(
    table: SourceTable, took: list[float], entries: list[Entry], listing: Listing, settings: CacheSettings
) -> Sample:
    frames = _rows(table, settings) / settings.views.count
    sizes = _sizes(entries, listing)
    total = estimate_sum(frames, sizes)
    datasets = Counter(entry.dataset for entry in entries)
    by_dataset = {name: total.value * count / len(entries) for name, count in datasets.items()}
    return Sample(table, total, estimate_sum(np.array(took), sizes), by_dataset)


def estimate_sum(sample: NDArray[np.floating], sizes: NDArray[np.float64]) -> Estimate:
    """Estimate a sum over all sources from its values on the first of them.

    Args:
        sample: [n] values of the sources drawn.
        sizes: [N] bytes of all sources, the drawn ones first.

    Either the mean times N, or the ratio to the bytes times all bytes: whichever errs less on the sample. Clips
    hold frames in proportion to their bytes, images one each. Cochran, Sampling Techniques (1977), 2.6 and 6.4.
    """
    n, all_n = len(sample), len(sizes)
    if n == all_n:
        return Estimate(float(sample.sum()), 0.0)
    if n == 1:
        return Estimate(float(sample[0] * all_n), float(sample[0] * all_n))  # one source says nothing of the spread
    spread = np.sqrt((1 - n / all_n) / n / (n - 1)) * all_n
    by_mean = Estimate(float(sample.mean() * all_n), float(spread * np.linalg.norm(sample - sample.mean())))
    drawn = sizes[:n]
    if drawn.sum() <= 0:
        return by_mean
    ratio = sample.sum() / drawn.sum()
    by_ratio = Estimate(float(ratio * sizes.sum()), float(spread * np.linalg.norm(sample - ratio * drawn)))
    return min(by_mean, by_ratio, key=lambda estimate: estimate.error)


def _sizes(entries: Iterable[Entry], listing: Listing) -> NDArray[np.float64]:
    """Return each entry's bytes; datasets of one HDF5 file share its bytes. Zero where there is no file."""
    files = [split_inside(listing.real.get(entry.path, entry.path))[0] for entry in entries]
    shared = Counter(files)
    sizes = {}
    for file in shared:
        path = None if listing.root is None else listing.root / file
        sizes[file] = path.stat().st_size / shared[file] if path is not None and path.is_file() else 0.0
    return np.array([sizes[file] for file in files], np.float64)
