"""Draw the views of each source's frames: the rows to store."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.views import draw_views
from usjepa.cache.scanning.changes import Hashes, frames_of
from usjepa.cache.store.columns import as_file, batches
from usjepa.cache.store.tables import RowTable, SourceTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.recipes.cache import CacheSettings

_NONE: Hashes = MappingProxyType({})
_BATCH = 1 << 10
"""Sources whose rows are held at a time."""


def row_tables(described: bytes | memoryview, settings: CacheSettings, hashes: Hashes = _NONE) -> Iterator[RowTable]:
    """Yield `row_table` of the sources of a table on disk, in parts."""
    first = 0
    for columns in batches(SourceTable, as_file(described), tuple(SourceTable.__dataclass_fields__), lines=_BATCH):
        sources = SourceTable(*columns)
        rows = row_table(sources, settings, hashes)
        yield replace(rows, source=rows.source + np.int32(first))
        first += len(sources)


def row_table(sources: SourceTable, settings: CacheSettings, hashes: Hashes = _NONE) -> RowTable:
    """Return a row per (source, frame, view), in that order; view 0 is the whole frame, the others are drawn.

    `hashes` are those of clips, which a recipe with `min_change` needs.
    """
    views = settings.views.count
    frames = frames_of(sources, hashes, settings)
    counts = np.array([len(chosen) for chosen in frames], dtype=np.int64)
    source = np.repeat(np.arange(len(sources), dtype=np.int32), counts * views)
    frame = np.repeat(np.concatenate([np.empty(0, np.int32), *frames]), views)
    view = np.tile(np.arange(views, dtype=np.int32), int(counts.sum()))
    content = [sources.content_hash[i] for i in source.tolist()]
    shapes = np.stack([sources.height[source], sources.width[source]], axis=1)
    names = list(zip(content, frame.tolist(), view.tolist(), strict=True))
    boxes, flips = draw_views(settings.seed, names, shapes, settings.views)
    top, left, height, width = boxes.T
    # A view is its box stretched to the stored edge; mirroring keeps lengths.
    down = sources.spacing_down[source] * height / settings.image_size
    across = sources.spacing_across[source] * width / settings.image_size
    return RowTable(source, frame, view, top, left, height, width, flips[:, 0], flips[:, 1], down, across)
