"""Draw the second image of each pair as a pure function of (seed, step, row).

A partner is another row of the same clip, at most so many frames away, or of the same patient; what counts is set by
`train.contrast`. It is drawn from the rows that take part alone, so no pair joins a training and a held-out group. A
still of one view is its own partner: the two images then differ by their crops and noise.

Shape suffixes: n rows that take part, B anchors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from usjepa.cache.places.digests import short_hashes
from usjepa.cache.places.runs import Runs
from usjepa.cache.sources.patients import group_key
from usjepa.train.counter import stream, uniforms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from usjepa.cache import Table
    from usjepa.cache.recipes.train import ContrastSettings

    Ints = NDArray[np.int64]

_AT_ONCE = 1 << 18
"""Rows that are looked at together."""
_ROOM = 2**64
"""Numbers of key, view and index that are told apart by 64 bits."""


class Partners:
    """The rows of one part of a run, ordered so that an anchor's candidates lie side by side: 8 bytes a row.

    4 where they lie so in the table, 8 if their keys need it; 20 or 24 where key, view and index are no number of 64
    bits.
    """

    def __init__(
        self,
        table: Table,
        positions: Ints | Runs,
        settings: ContrastSettings,
        code_S: NDArray[np.int32] | None = None,
    ) -> None:
        """Order the rows at `positions`, int64 [n] ascending, of a store's table.

        `code_S` is `codes_of` its sources by what counts, where it is known already.
        """
        self._table, self._positions = table, Runs.like(positions)
        self._distance, self._any_view = settings.distance, settings.views
        self._code_S = codes_of(table, settings.positives) if code_S is None else code_S
        self._frames = self._views = 1
        codes, count = 0, len(self._positions)
        for _, code_n, frame_n, view_n in self._parts():
            codes = max(codes, int(code_n.max()) + 1)
            self._frames = max(self._frames, int(frame_n.max()) + 1)
            self._views = max(self._views, int(view_n.max()) + 1)
        keys = codes * self._frames * (1 if self._any_view else self._views)
        self._scale = 1
        """Of numbers whose order is that of rows by key, view and index: number = key * scale + view * n + index."""
        self._key_n: NDArray[Any]
        """Of the row at each place: its number, or its key where the scale is 1."""
        self._order_n: Ints | None = None
        """Which row is at each place; None: numbers tell, or rows are in order."""
        self._place_n: Ints | None = None
        """At which place each row is; None likewise."""
        if self._is_ordered():
            self._key_n = self._keys(_least_type(keys))
        elif keys * self._views * count <= _ROOM:
            self._scale = self._views * count
            self._key_n = self._keys(np.uint64)
            self._key_n.sort()
        else:
            key_n = self._keys(_least_type(keys))
            self._order_n = np.lexsort((table.views_at(np.asarray(self._positions)), key_n))
            self._key_n, self._place_n = key_n[self._order_n], np.empty_like(self._order_n)
            self._place_n[self._order_n] = np.arange(count)

    def _parts(self) -> Iterator[tuple[int, Ints, Ints, Ints]]:
        """Yield the index of a row, and code, frame and view of it and some that follow."""
        for start in range(0, len(self._positions), _AT_ONCE):
            yield start, *self._places(self._positions[start : start + _AT_ONCE])

    def _places(self, positions_n: Ints) -> tuple[Ints, Ints, Ints]:
        source_n, frame_n = self._table.stretches.at(positions_n)
        return self._code_S[source_n].astype(np.int64), frame_n, self._table.views_at(positions_n).astype(np.int64)

    def _key(self, code_n: Ints, frame_n: Ints, view_n: Ints) -> Ints:
        if not self._any_view:
            # Rows of another view are no candidates where views must be equal: each view is then a clip of its own.
            code_n = code_n * self._views + view_n
        return code_n * self._frames + frame_n

    def _is_ordered(self) -> bool:
        """Return whether the rows, in the table's order, are in that of their keys, and within these of their views."""
        before = (-1, 0)
        for _, *places in self._parts():
            key_n, view_n = np.r_[before[0], self._key(*places)], np.r_[before[1], places[2]]
            if not ((key_n[1:] > key_n[:-1]) | ((key_n[1:] == key_n[:-1]) & (view_n[1:] >= view_n[:-1]))).all():
                return False
            before = int(key_n[-1]), int(view_n[-1])
        return True

    def _keys(self, kind: type[np.integer[Any]]) -> NDArray[Any]:
        """Return the key or number of every row, in the table's order."""
        key_n = np.empty(len(self._positions), kind)
        for start, code_n, frame_n, view_n in self._parts():
            index_n = np.arange(start, start + len(code_n))
            key_n[start : start + len(code_n)] = self._number(self._key(code_n, frame_n, view_n), view_n, index_n)
        return key_n

    def _number(self, key_n: Ints, view_n: Ints, index_n: Ints) -> NDArray[Any]:
        """Return the numbers of rows; their keys where the scale is 1."""
        if self._scale == 1:
            return key_n
        count = np.uint64(len(self._positions))
        within_n = view_n.astype(np.uint64) * count + index_n.astype(np.uint64)
        return key_n.astype(np.uint64) * np.uint64(self._scale) + within_n

    def of(self, positions_B: Ints, rows_B: Ints, seed: int, step: int) -> Ints:
        """Return the position of each anchor's partner, int64 [B].

        Args:
            positions_B: of the anchors, among those that take part.
            rows_B: their row numbers in the store, which name the draws.
            seed: of the run.
            step: global number of the step, or a constant for validation.
        """
        code_B, frame_B, view_B = self._places(positions_B)
        key_B = self._key(code_B, frame_B, view_B)
        place_B = self._place(positions_B, key_B, view_B)
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
        found: Ints = self._positions[self._rows_at(pick_B)]
        return found

    def _place(self, positions_B: Ints, key_B: Ints, view_B: Ints) -> Ints:
        """Return where in the order each anchor is."""
        index_B = self._positions.find(positions_B)[0]
        if self._scale > 1:
            return np.searchsorted(self._key_n, self._number(key_B, view_B, index_B))
        return index_B if self._place_n is None else self._place_n[index_B]

    def _rows_at(self, place_B: Ints) -> Ints:
        """Return the index of the row at each place of the order."""
        if self._scale > 1:
            return (self._key_n[place_B] % np.uint64(len(self._positions))).astype(np.int64)
        return place_B if self._order_n is None else self._order_n[place_B]

    def _search(self, key_B: Ints, side: Literal["left", "right"]) -> Ints:
        # Asked for in the type of the keys, or all of them would be copied.
        asked_B = key_B.astype(self._key_n.dtype)
        if self._scale > 1:
            asked_B *= np.uint64(self._scale)
            asked_B += np.uint64(self._scale - 1 if side == "right" else 0)
        return np.searchsorted(self._key_n, asked_B, side=side)


def _least_type(most: int) -> type[np.signedinteger[Any]]:
    """Return the type of numbers from 0 to before `most`: 4 bytes each where all of them fit."""
    return np.int32 if most <= 2**31 else np.int64


def codes_of(table: Table, by: str) -> NDArray[np.int32]:
    """Return a number per source, int32 [S]: equal for sources of one group (`by` "group"), else its own.

    Groups are told apart by their hashes, as the split tells them.
    """
    if by == "clip":
        return np.arange(len(table.sources), dtype=np.int32)
    hash_S = np.empty(len(table.sources), np.uint64)
    first = 0
    for datasets, groups, paths in table.source_columns("dataset", "group", "path"):
        told = zip(datasets, groups, paths, strict=True)
        keys = ((*group_key(dataset, group), "" if group else path) for dataset, group, path in told)
        hash_S[first : first + len(paths)] = short_hashes(map("\0".join, keys))
        first += len(paths)
    ordered = np.sort(hash_S)
    ordered = ordered[np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)]]
    code_S = np.empty(len(hash_S), np.int32)
    for start in range(0, len(hash_S), _AT_ONCE):
        mine = hash_S[start : start + _AT_ONCE]
        begins = np.r_[True, mine[1:] != mine[:-1]]  # files of a patient lie side by side: looked up once
        code_S[start : start + _AT_ONCE] = np.searchsorted(ordered, mine[begins])[np.cumsum(begins) - 1]
    return code_S
