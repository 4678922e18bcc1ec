"""Draw the second image of each pair as a pure function of (seed, step, row).

A partner is another row of the same clip, at most so many frames away, or of the same patient; what counts is set by
`train.contrast`. It is drawn from the rows that take part alone, so no pair joins a training and a held-out group. A
still of one view is its own partner: the two images then differ by their crops and noise.

Shape suffixes: n rows that take part, B anchors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from usjepa.cache.places.runs import Runs
from usjepa.cache.sources.patients import group_key
from usjepa.train.counter import stream, uniforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache import Table
    from usjepa.cache.recipes.train import ContrastSettings

    Ints = NDArray[np.int64]


class Partners:
    """The rows of one part of a run, ordered so that an anchor's candidates lie side by side: 12 bytes a row.

    24 where there are 2**31 rows or more, or as many numbers of clips and frames.
    """

    def __init__(self, table: Table, positions: Ints, settings: ContrastSettings) -> None:
        """Order the rows at `positions`, int64 [n] ascending, of a store's table."""
        self._positions = Runs.like(positions)
        self._distance = settings.distance
        source_n, frame_n = table.stretches.at(positions)
        key_n = codes_of(table, settings.positives)[source_n]
        view_n = table.views_at(positions)
        if not settings.views:
            # Rows of another view are no candidates where views must be equal: each view is then a clip of its own.
            key_n = key_n * (int(view_n.max(initial=0)) + 1) + view_n
        self._frames = int(frame_n.max(initial=0)) + 1
        key_n = _small(key_n * self._frames + frame_n, (int(key_n.max(initial=0)) + 1) * self._frames)
        self._order_n = _small(np.lexsort((view_n, key_n)), len(positions))
        self._key_n = key_n[self._order_n]
        self._place_n = np.empty_like(self._order_n)
        self._place_n[self._order_n] = np.arange(len(positions), dtype=self._order_n.dtype)

    def of(self, positions_B: Ints, rows_B: Ints, seed: int, step: int) -> Ints:
        """Return the position of each anchor's partner, int64 [B].

        Args:
            positions_B: of the anchors, among those that take part.
            rows_B: their row numbers in the store, which name the draws.
            seed: of the run.
            step: global number of the step, or a constant for validation.
        """
        place_B = self._place_n[self._positions.find(positions_B)[0]].astype(np.int64)
        key_B = self._key_n[place_B].astype(np.int64)
        frame_B = key_B % self._frames
        first_B = key_B - frame_B
        low_B, high_B = np.zeros_like(frame_B), np.full_like(frame_B, self._frames - 1)
        if self._distance is not None:
            low_B = np.maximum(frame_B - self._distance, 0)
            high_B = np.minimum(frame_B + self._distance, self._frames - 1)
        begin_B = self._search(first_B + low_B, "left")
        others_B = self._search(first_B + high_B, "right") - begin_B - 1
        drawn_B = uniforms(stream("partners", seed, step, rows_B), 0)
        pick_B = begin_B + np.minimum((drawn_B * others_B).astype(np.int64), np.maximum(others_B - 1, 0))
        pick_B += (pick_B >= place_B) & (others_B > 0)
        found: Ints = self._positions[self._order_n[pick_B]]
        return found

    def _search(self, key_B: Ints, side: Literal["left", "right"]) -> Ints:
        # Asked for in the type of the keys, or all of them would be copied.
        return np.searchsorted(self._key_n, key_B.astype(self._key_n.dtype), side=side)


def _small(numbers: Ints, most: int) -> NDArray[np.signedinteger[Any]]:
    """Return numbers from 0 to before `most` in 4 bytes each where all of them fit."""
    return numbers.astype(np.int32) if most <= 2**31 else numbers


def codes_of(table: Table, by: str) -> Ints:
    """Return a number per source, int64 [S]: equal for sources of one group (`by` "group"), else its own."""
    if by == "clip":
        return np.arange(len(table.sources), dtype=np.int64)
    numbers: dict[tuple[str, ...], int] = {}
    parts = [np.empty(0, np.int64)]
    for columns in table.source_columns("dataset", "group", "path"):
        keys = (
            (*group_key(dataset, group), "" if group else path) for dataset, group, path in zip(*columns, strict=True)
        )
        parts.append(np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, len(columns[0])))
    return np.concatenate(parts)
