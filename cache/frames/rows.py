"""A shard's pixels and regions, cut from its sources: frame -> prepared frame -> views."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import SourceError
from usjepa.cache.frames.cells import pack_cells
from usjepa.cache.frames.prepare import PREPROCESS_VERSION, prepare
from usjepa.cache.frames.regions import REGION_VERSION
from usjepa.cache.frames.views import VIEW_VERSION, View, apply_view
from usjepa.cache.identity import Json, soft_versions
from usjepa.cache.recipes.marks import hard_values
from usjepa.cache.store.layers import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.reader import SourceReader
    from usjepa.cache.store.tables import RowTable, SourceTable

Holes = list[tuple[int, str]]


def pixel_layers(settings: CacheSettings, rows_per_shard: int) -> tuple[Layer, Layer]:
    """Return the `pixels` and `regions` layers that a recipe asks for; everything that changes numbers is in them."""
    size, channels = settings.image_size, 1 if settings.preprocess.grey else 3
    versions = {"preprocess": PREPROCESS_VERSION, "region": REGION_VERSION, "view": VIEW_VERSION}
    identity = {**hard_values(settings, "pixels"), "versions": versions}
    cells = -(-((size // 2) ** 2) // 8)
    return (
        Layer("pixels", "uint8", (channels, size, size), rows_per_shard, identity),
        Layer("regions", "uint8", (cells,), rows_per_shard, identity),
    )


def pixel_soft() -> dict[str, Json]:
    """Return the versions that pixels were made with; recorded, never in the way."""
    return soft_versions(["av", "numpy", "opencv-python-headless", "pillow", "pydicom", "usjepa"])


@dataclass(frozen=True)
class PixelShard:
    """Rows as the views show them."""

    pixels: NDArray[np.uint8]
    """[n, C, S, S]"""
    regions: NDArray[np.uint8]
    """[n, bytes of cells]"""
    holes: Holes

    def exists(self, first_row: int) -> NDArray[np.bool_]:
        """Return [n], false at holes; `first_row` is the number of the first row."""
        found = np.ones(len(self.pixels), np.bool_)
        found[[row - first_row for row, _ in self.holes]] = False
        return found


class PixelMaker:
    """Cuts the rows of one segment from its sources."""

    def __init__(
        self, sources: SourceTable, rows: RowTable, first_row: int, reader: SourceReader, settings: CacheSettings
    ) -> None:
        self._sources, self._rows, self._first = sources, rows, first_row
        self._reader, self._settings = reader, settings

    def make(
        self,
        numbers: range,
        skip_errors: bool,
        check: Callable[[], None],
        bad: Mapping[str, str] = MappingProxyType({}),
        at: Callable[[str], None] = lambda _: None,
    ) -> PixelShard:
        """Return the rows `numbers` (global row numbers, within the segment).

        Args:
            numbers: consecutive rows.
            skip_errors: an unreadable frame becomes a hole with its reason instead of ending the build.
            check: called for every frame; may raise to stop.
            bad: path -> reason of sources that are known to be unreadable, not to be tried again.
            at: told the path of each source before it is opened.

        Raises:
            SourceError: a source can't be read, or is not the file that was scanned.
        """
        size, channels = self._settings.image_size, 1 if self._settings.preprocess.grey else 3
        pixels = np.zeros((len(numbers), channels, size, size), np.uint8)
        regions = np.zeros((len(numbers), -(-((size // 2) ** 2) // 8)), np.uint8)
        holes: Holes = []
        for source, positions in self._by_source(numbers):
            path = str(self._sources.path[source])
            try:
                if path in bad:
                    raise SourceError(bad[path])
                at(path)
                self._cut(source, positions, numbers, pixels, regions, check)
            except SourceError as error:
                if not skip_errors:
                    raise
                # The whole file is left out of this shard: its frames are not to be trusted in part.
                holes += [(self._first + int(p), str(error)) for p in positions]
        return PixelShard(pixels, regions, holes)

    def _by_source(self, numbers: range) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (source, positions in the row table) in row order; rows of one source stand together."""
        positions = np.arange(numbers.start - self._first, numbers.stop - self._first)
        sources = self._rows.source[positions]
        for part in np.split(positions, np.flatnonzero(np.diff(sources)) + 1):
            yield int(self._rows.source[part[0]]), part

    def _cut(
        self,
        source: int,
        positions: NDArray[np.int64],
        numbers: range,
        pixels: NDArray[np.uint8],
        regions: NDArray[np.uint8],
        check: Callable[[], None],
    ) -> None:
        frames = self._rows.frame[positions]
        wanted = np.unique(frames)
        described = self._sources
        decoded = self._reader.frames(
            str(described.path[source]),
            str(described.reader[source]),
            wanted.tolist(),
            str(described.content_hash[source]),
        )
        for number, frame in zip(wanted, decoded, strict=True):
            check()
            prepared = prepare(frame, self._settings.preprocess)
            for position in positions[frames == number]:
                image, region = apply_view(
                    prepared, self._view(int(position)), self._settings.image_size, self._settings.preprocess.deidentify
                )
                place = self._first + int(position) - numbers.start
                pixels[place] = image
                regions[place] = pack_cells(region)

    def _view(self, position: int) -> View:
        rows = self._rows
        return View(
            int(rows.top[position]),
            int(rows.left[position]),
            int(rows.height[position]),
            int(rows.width[position]),
            bool(rows.flip_horizontal[position]),
            bool(rows.flip_vertical[position]),
        )
