"""Draw the second image of each pair as a pure function of (seed, step, row).

A partner is another row of the same clip, at most so many frames away, or of the same patient; what counts is set by
`train.contrast`. It is drawn from the rows that take part alone, so no pair joins a training and a held-out group. A
still of one view is its own partner: the two images then differ by their crops and noise.

Shape suffixes: n rows that take part, B anchors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.sources.patients import group_key
from usjepa.train.counter import stream, uniforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache import Table
    from usjepa.cache.recipes.train import ContrastSettings

    Ints = NDArray[np.int64]


class Partners:
    """The rows of one part of a run, ordered so that an anchor's candidates lie side by side: 24 bytes a row."""

    def __init__(self, table: Table, positions: Ints, settings: ContrastSettings) -> None:
        """Order the rows at `positions`, int64 [n] ascending, of a store's table."""
        self._positions = positions
        self._distance = settings.distance
        code_n = codes_of(table, settings.positives)[table.source[positions]]
        view_n = table.view[positions].astype(np.int64)
        frame_n = table.frame[positions].astype(np.int64)
        views = int(view_n.max(initial=0)) + 1
        # Rows of another view are no candidates where views must be equal: each view is then a clip of its own.
        self._code_n = code_n if settings.views else code_n * views + view_n
        self._frame_n = frame_n
        self._frames = int(frame_n.max(initial=0)) + 1
        key_n = self._code_n * self._frames + frame_n
        self._order_n = np.lexsort((view_n, key_n))
        self._key_n = key_n[self._order_n]
        self._place_n = np.empty_like(self._order_n)
        self._place_n[self._order_n] = np.arange(len(positions))

    def of(self, positions_B: Ints, rows_B: Ints, seed: int, step: int) -> Ints:
        """Return the position of each anchor's partner, int64 [B].

        Args:
            positions_B: of the anchors, among those that take part.
            rows_B: their row numbers in the store, which name the draws.
            seed: of the run.
            step: global number of the step, or a constant for validation.
        """
        at_B = np.searchsorted(self._positions, positions_B)
        first_B = self._code_n[at_B] * self._frames
        frame_B = self._frame_n[at_B]
        low_B, high_B = np.zeros_like(frame_B), np.full_like(frame_B, self._frames - 1)
        if self._distance is not None:
            low_B = np.maximum(frame_B - self._distance, 0)
            high_B = np.minimum(frame_B + self._distance, self._frames - 1)
        begin_B = np.searchsorted(self._key_n, first_B + low_B, side="left")
        others_B = np.searchsorted(self._key_n, first_B + high_B, side="right") - begin_B - 1
        drawn_B = uniforms(stream("partners", seed, step, rows_B), 0)
        pick_B = begin_B + np.minimum((drawn_B * others_B).astype(np.int64), np.maximum(others_B - 1, 0))
        pick_B += (pick_B >= self._place_n[at_B]) & (others_B > 0)
        found: Ints = self._positions[self._order_n[pick_B]]
        return found


def codes_of(table: Table, by: str) -> Ints:
    """Return a number per source, int64 [S]: equal for sources of one group (`by` "group"), else its own."""
    if by == "clip":
        return np.arange(len(table.sources), dtype=np.int64)
    numbers: dict[tuple[str, ...], int] = {}
    keys: Sequence[tuple[str, ...]] = [
        (*group_key(source.dataset, source.group), "" if source.group else source.path) for source in table.sources
    ]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
