"""Find the rows that a build recorded as doubtful or blank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.store.commits import committed

if TYPE_CHECKING:
    from usjepa.cache.reading.store import Store


@dataclass(frozen=True)
class Doubts:
    """Row number -> why a person should look at it, ascending, of the rows that exist."""

    doubtful: dict[int, str]
    """Rows whose region may show more than the scan."""
    blank: dict[int, str]
    """Rows that show no echo."""

    @property
    def both(self) -> dict[int, str]:
        """All of them, ascending; blank where a row is both."""
        return dict(sorted({**self.doubtful, **self.blank}.items()))


def doubts_of(store: Store) -> Doubts:
    """Return what the records of the store's pixels tell of its rows."""
    commits = committed(store.storage, store.layers["pixels"]).values()
    doubtful = {row: why for commit in commits for row, why in commit.doubtful}
    blank = {row: why for commit in commits for row, why in commit.blank}
    return Doubts(_there(store, doubtful), _there(store, blank))


def _there(store: Store, told: dict[int, str]) -> dict[int, str]:
    """Return the reasons, without the names before them, of rows that exist."""
    rows = np.array(sorted(told), np.int64)
    place = np.searchsorted(store.rows, rows).clip(max=max(len(store.rows) - 1, 0))
    there = rows[store.rows[place] == rows] if len(store.rows) else rows[:0]
    return {row: told[row].rpartition(": ")[2] for row in there.tolist()}
