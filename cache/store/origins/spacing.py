"""Tell how many millimetres a stored pixel of each row spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.store.columns import batches
from usjepa.cache.store.origins.segment_tables import open_rows
from usjepa.cache.store.tables import RowTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.places.runs import Runs
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Segment


def spacing_of(storage: Storage, segments: Sequence[Segment], rows: Runs) -> NDArray[np.float64]:
    """Return the millimetres per stored pixel, down and across [R', 2], of the rows that exist.

    NaN where that is not known. Raises DamageError as `read_tables`.
    """
    return np.concatenate([np.empty((0, 2)), *spacing_in_batches(storage, segments, rows)])


def spacing_in_batches(storage: Storage, segments: Sequence[Segment], rows: Runs) -> Iterator[NDArray[np.float64]]:
    """Yield what `spacing_of` returns in parts, [n, 2] each."""
    for segment in segments:
        row = segment.first_row
        with open_rows(storage, segment) as file:
            for columns in batches(RowTable, file, ("spacing_down", "spacing_across"), segment.rows):
                kept = rows.within(row, row + len(columns[0]))
                row += len(columns[0])
                yield np.stack(columns, axis=1)[slice(None) if kept is None else kept]


def spacing_text(spacing: NDArray[np.float64]) -> str:
    """Return how many rows of a spacing [R, 2] have one, and its range."""
    return spacing_told([spacing])


def spacing_told(parts: Iterable[NDArray[np.float64]]) -> str:
    """Return how many rows of a spacing have one, and its range, from parts of it, [n, 2] each."""
    count = known = 0
    least, most = np.inf, -np.inf
    for part in parts:
        found = part[~np.isnan(part).any(axis=1)]
        count, known = count + len(part), known + len(found)
        least, most = found.min(initial=least), found.max(initial=most)
    if not known:
        return f"spacing: known of none of {count:,} rows"
    return f"spacing: known of {known:,} of {count:,} rows, {least:.4g} to {most:.4g} mm per stored pixel"
