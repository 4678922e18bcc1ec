"""Draw the second image of each pair as a pure function of (seed, step, row).

A partner is another row of the same clip, at most so many frames away, or of the same patient; what counts is set by
`train.contrast`. It is drawn from the rows that take part alone, so no pair joins a training and a held-out group. A
still of one view is its own partner: the two images then differ by their crops and noise.

Shape suffixes: n rows that take part, B anchors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from usjepa.cache.places.digests import order_of, short_hashes
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
"""Numbers of key, view and index that can be sorted as one."""


class Partners:
    """The rows of one part of a run, ordered so that an anchor's candidates lie side by side: 8 bytes a row.

    4 where they lie so in the table; twice as many where there are 2**31 rows or more, or numbers of clips and frames.
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
        codes = 0
        for _, code_n, frame_n, view_n in self._parts():
            codes = max(codes, int(code_n.max()) + 1)
            self._frames = max(self._frames, int(frame_n.max()) + 1)
            self._views = max(self._views, int(view_n.max()) + 1)
        keys = codes * self._frames * (1 if self._any_view else self._views)
        self._key_n = np.empty(0, _least_type(keys))
        """Of the row at each place."""
        self._order_n: NDArray[np.signedinteger[Any]] | None = None
        """Which row is at each place; None: they are in order."""
        if self._is_ordered():
            self._key_n = self._keys(keys)
        elif keys * self._views * len(self._positions) > _ROOM:
            self._order_by_columns(keys)
        else:
            self._order_by_number(keys)

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

    def _keys(self, most: int) -> NDArray[np.signedinteger[Any]]:
        """Return the key of every row, in the table's order."""
        key_n = np.empty(len(self._positions), _least_type(most))
        for start, *places in self._parts():
            key_n[start : start + len(places[0])] = self._key(*places)
        return key_n

    def _order_by_columns(self, keys: int) -> None:
        """Sort the rows by key, view and index."""
        key_n = self._keys(keys)
        order_n = np.lexsort((self._table.views_at(np.asarray(self._positions)), key_n))
        self._order_n, self._key_n = order_n.astype(_least_type(len(order_n))), key_n[order_n]

    def _order_by_number(self, keys: int) -> None:
        """Sort the rows as numbers of key, view and index; the keys then take the place of the numbers in memory."""
        count = len(self._positions)
        number_n, size, views = np.empty(count, np.uint64), np.uint64(count), np.uint64(self._views)
        for start, *places in self._parts():
            here = slice(start, start + len(places[0]))
            number_n[here] = self._key(*places).astype(np.uint64) * views + places[2].astype(np.uint64)
            number_n[here] *= size
            number_n[here] += np.arange(here.start, here.stop, dtype=np.uint64)
        number_n.sort()
        kind = _least_type(keys)
        self._order_n = np.empty(count, _least_type(count))
        for start in range(0, count, _AT_ONCE):
            here = slice(start, min(start + _AT_ONCE, count))
            key_n, self._order_n[here] = np.divmod(number_n[here], size)
            number_n.view(kind)[here] = key_n // views  # before what is still to be read
        number_n.resize(-(-count * np.dtype(kind).itemsize // 8), refcheck=False)
        self._key_n = number_n.view(kind)[:count]

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
        found: Ints = self._positions[pick_B if self._order_n is None else self._order_n[pick_B]]
        return found

    def _place(self, positions_B: Ints, key_B: Ints, view_B: Ints) -> Ints:
        """Return where in the order each anchor is: among the rows of its key, which are ordered by view and index."""
        index_B = self._positions.find(positions_B)[0]
        if self._order_n is None:
            return index_B
        low_B, high_B = self._search(key_B, "left"), self._search(key_B, "right")
        while (searched_B := low_B < high_B).any():
            middle_B = np.where(searched_B, (low_B + high_B) // 2, 0)
            other_B = self._order_n[middle_B].astype(np.int64)
            its_view_B = self._table.views_at(self._positions[other_B])
            before_B = (its_view_B < view_B) | ((its_view_B == view_B) & (other_B < index_B))
            low_B = np.where(searched_B & before_B, middle_B + 1, low_B)
            high_B = np.where(searched_B & ~before_B, middle_B, high_B)
        return low_B

    def _search(self, key_B: Ints, side: Literal["left", "right"]) -> Ints:
        # Asked for in the type of the keys, or all of them would be copied.
        return np.searchsorted(self._key_n, key_B.astype(self._key_n.dtype), side=side)


def _least_type(most: int) -> type[np.signedinteger[Any]]:
    """Return the type of numbers from 0 to before `most`: 4 bytes each where all of them fit."""
    return np.int32 if most <= 2**31 else np.int64


def codes_of(table: Table, by: str) -> NDArray[np.int32]:
    """Return a number per source, int32 [S]: equal for sources of one group (`by` "group"), else its own.

    Groups are told apart by their hashes, as the split tells them.
    """
    if by == "clip":
        return np.arange(len(table.sources), dtype=np.int32)
    hashes = [np.empty(0, np.uint64)]
    for columns in table.source_columns("dataset", "group", "path"):
        keys = (
            (*group_key(dataset, group), "" if group else path) for dataset, group, path in zip(*columns, strict=True)
        )
        hashes.append(short_hashes(map("\0".join, keys)))
    hash_S = np.concatenate(hashes)
    order = order_of(hash_S)
    hash_S = hash_S[order]
    code_S = np.empty(len(order), np.int32)
    code_S[order] = np.cumsum(np.r_[False, hash_S[1:] != hash_S[:-1]][: len(order)], dtype=np.int32)
    return code_S
