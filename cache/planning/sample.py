"""Scan a sample of a source, to estimate its frames and scan time."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.decoding.many import ManyChildren, children_for
from usjepa.cache.errors import SourceError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.processors import cores
from usjepa.cache.scanning.changes import Hashes, frames_of
from usjepa.cache.scanning.scan import scan_all
from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.sources.registry import split_path
from usjepa.cache.store.tables import SourceTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.decoding.child import DecodingProcess
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.scanning.scanned import Scanned
    from usjepa.cache.sources.base import Entry, Listing

_BLOCK = 16
_BLOCKS_AT_LEAST = 64
_LARGEST = 4
"""Times as large as usual a block may be to hold a whole group."""
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A sum over all sources, from a sample of them."""

    value: float
    error: float
    """One standard error; 0 when every source was scanned."""


@dataclass(frozen=True)
class Sample:
    """Sources drawn at random, and estimates for all."""

    table: SourceTable
    """Of the drawn sources, block by block in the order of the draw."""
    frames: Estimate
    """Frames that a build would take."""
    scan_seconds: Estimate
    frames_by_dataset: dict[str, float] = field(default_factory=dict)
    hashes: Hashes = field(default_factory=dict)
    """Of the sampled clips, where the recipe compares frames."""


def draw_sample(listing: Listing, settings: CacheSettings, rows: int, seconds: float) -> Sample:
    """Scan sources, block by block in random order, until they hold `rows` rows, all are scanned, or time is over.

    A block is a stretch of the listing (see `_blocks_of`): a build meets neighbours one after the other, and what the
    second of them costs (a patient of the phantom already known, an HDF5 file already open) a lone source would not
    show.

    Raises:
        SourceError: no source of the sample can be read.
    """
    blocks = _blocks_of(listing.entries)
    order = [blocks[i] for i in np.random.default_rng(_SEED).permutation(len(blocks))]
    tables: list[SourceTable] = []
    hashes: dict[tuple[str, str], bytes] = {}
    took: list[NDArray[np.float64]] = []
    with ManyChildren(listing, settings, most=1) as one:
        lead = _starting(one.first, listing.entries[order[0].start])
        start, found = time.perf_counter(), 0
        for few in _chunks(order):
            if tables and (time.perf_counter() - start >= seconds or found >= rows):
                break
            scanned, spans = _scan(few, listing, settings, one)
            tables.append(scanned.table)
            hashes.update(scanned.hashes)
            took.append(spans)
            found += _rows(scanned.table, hashes, settings).sum()
    table = SourceTable.joined(tables)
    if not table.frames.any():
        raise SourceError(f"none of {len(table)} sampled sources can be read, first: {table.path[0]}: {table.error[0]}")
    return _extrapolated(table, hashes, np.concatenate(took), lead, order, listing, settings)


def _starting(child: DecodingProcess, entry: Entry) -> float:
    """Return the seconds until a child answers, beyond those of the answer; it is there then. A scan starts one."""
    if entry.reader == PHANTOM:
        return 0.0
    took = []
    for _ in range(2):
        start = time.perf_counter()
        with contextlib.suppress(SourceError):
            child.probe(entry.path, entry.reader)
        took.append(time.perf_counter() - start)
    return max(took[0] - took[1], 0.0)


def _chunks(order: list[range]) -> Iterator[list[range]]:
    """Yield a few blocks at a time, about as many sources as a full block has."""
    few: list[range] = []
    for block in order:
        few.append(block)
        if sum(map(len, few)) >= _BLOCK:
            yield few
            few = []
    if few:
        yield few


def _scan(
    blocks: list[range], listing: Listing, settings: CacheSettings, one: ManyChildren
) -> tuple[Scanned, NDArray[np.float64]]:
    """Return what a scan of some blocks gives, and the seconds of each block."""
    marks: list[float] = []

    def at_source() -> None:
        marks.append(time.perf_counter())
        safe_point()

    entries = tuple(listing.entries[i] for block in blocks for i in block)
    scanned = scan_all(replace(listing, entries=entries), settings, None, "skip", at_source, one)
    spans = np.diff([*marks, time.perf_counter()])
    return scanned, np.add.reduceat(spans, np.cumsum([0, *map(len, blocks[:-1])]))


def _blocks_of(entries: Sequence[Entry]) -> list[range]:
    """Return stretches of a listing: whole groups (patients, clips), small ones together, large ones cut.

    At least 64 of them where there are sources enough, of about 16 sources each where there are many.
    """
    least = max(1, min(_BLOCK, len(entries) // _BLOCKS_AT_LEAST))
    blocks, start = [], 0
    for i in range(1, len(entries) + 1):
        ends = i == len(entries) or _group(entries[i]) != _group(entries[i - 1])
        if i == len(entries) or (ends and i - start >= least) or i - start >= _LARGEST * least:
            blocks.append(range(start, i))
            start = i
    return blocks


def _group(entry: Entry) -> tuple[str, str]:
    return entry.dataset, entry.group


def _rows(table: SourceTable, hashes: Hashes, settings: CacheSettings) -> NDArray[np.int64]:
    return np.array([len(frames) for frames in frames_of(table, hashes, settings)], np.int64) * settings.views.count


def _extrapolated(
    table: SourceTable,
    hashes: Hashes,
    took: NDArray[np.float64],
    lead: float,
    order: list[range],
    listing: Listing,
    settings: CacheSettings,
) -> Sample:
    nbytes = _sizes(listing.entries, listing)
    counts = np.array([len(block) for block in order], np.float64)
    sizes = np.array([nbytes[block.start : block.stop].sum() for block in order])
    begins = np.cumsum([0, *map(len, order[: len(took) - 1])])
    total = _estimate_sum(np.add.reduceat(_rows(table, hashes, settings) / settings.views.count, begins), counts, sizes)
    scanning = _estimate_sum(took, counts, sizes)
    datasets = Counter(entry.dataset for entry in listing.entries)
    by_dataset = {name: total.value * count / len(listing.entries) for name, count in datasets.items()}
    share = children_for(len(listing.entries), settings.decode_processes or cores())
    scanning = replace(scanning, value=scanning.value / share + lead, error=scanning.error / share)
    return Sample(table, total, scanning, by_dataset, hashes)


def _estimate_sum(sample: NDArray[np.floating], *known: NDArray[np.float64]) -> Estimate:
    """Estimate a sum over all blocks from its values on the first of them.

    Args:
        sample: [n] values of the blocks drawn.
        known: one or more [N], known of all blocks, the drawn ones first: their sources, their bytes.

    The ratio to something that is known, times the sum of that over all: whichever errs least on the sample. Clips
    hold frames in proportion to their bytes, images one each. Blocks, not sources, are what is drawn at random, so the
    error is that of blocks. Cochran, Sampling Techniques (1977), 6.4 and 9A.1.
    """
    n, all_n = len(sample), len(known[0])
    if n == all_n:
        return Estimate(float(sample.sum()), 0.0)
    return min((_by_ratio(sample, each) for each in known if each[:n].sum() > 0), key=lambda estimate: estimate.error)


def _by_ratio(sample: NDArray[np.floating], known: NDArray[np.float64]) -> Estimate:
    n, all_n = len(sample), len(known)
    ratio = sample.sum() / known[:n].sum()
    value = float(ratio * known.sum())
    if n == 1:
        return Estimate(value, value)  # one block says nothing of the spread
    spread = np.sqrt((1 - n / all_n) / n / (n - 1)) * all_n
    return Estimate(value, float(spread * np.linalg.norm(sample - ratio * known[:n])))


def _sizes(entries: Sequence[Entry], listing: Listing) -> NDArray[np.float64]:
    """Return each entry's bytes; datasets of one HDF5 file share its bytes. Zero where there is no file."""
    files = [split_path(listing.real.get(entry.path, entry.path))[0] for entry in entries]
    shared = Counter(files)
    sizes = {}
    for file in shared:
        path = None if listing.root is None else listing.root / file
        sizes[file] = path.stat().st_size / shared[file] if path is not None and path.is_file() else 0.0
    return np.array([sizes[file] for file in files], np.float64)
