"""Choose a page's rows: what needs a look first, the rest drawn evenly.

A fifth of the page each is for doubtful rows, blank ones, near-duplicates and outliers; what these leave is drawn
evenly over dataset, label, split and patient. Doubtful and blank rows are known of the whole store, from the build's
records; duplicates and outliers are sought among rows that are looked at, five times as many as are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.inspecting.doubts import Doubts, doubts_of
from usjepa.cache.inspecting.examining import examine
from usjepa.cache.inspecting.flags import far_out, outlier_scores, twins
from usjepa.cache.inspecting.sampling import Sources, first_rows, named, rows_in_turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.inspecting.axes import Moments
    from usjepa.cache.inspecting.examining import Examined
    from usjepa.cache.inspecting.flags import Twin
    from usjepa.cache.inspecting.sampling import Named
    from usjepa.cache.reading.store import Store

    Ints = NDArray[np.int64]

LOOKED_AT = 5
"""Rows looked at for each that is shown."""
PARTS = 5
"""Parts of a page: four for rows that need a look, one for others at least."""


@dataclass(frozen=True)
class Row:
    """A row of a page."""

    number: int
    source: Named
    frame: int
    view: int
    patient: int
    """Equal for rows of one patient."""
    doubtful: str
    """Why its region may show more than the scan; empty where nothing says so. So is `blank`."""
    blank: str
    twin: int | None
    """Row number of its near-duplicate in another file."""
    twin_bits: int
    twin_of_other_patient: bool
    outlier: float
    """How far it lies from the rows of other patients, NaN where that can't be told."""
    is_outlier: bool

    @property
    def concern(self) -> tuple[bool, ...]:
        """Sorts rows: those that need a look most first."""
        return (not self.doubtful, not self.blank, self.twin is None, not self.is_outlier)


@dataclass(frozen=True)
class Chosen:
    """The rows of a page, and what they were chosen from."""

    rows: list[Row]
    """In the order in which they were chosen."""
    there: int
    """Rows that were chosen from."""
    examined: int
    """Rows that were looked at."""
    doubtful: int
    """Rows of the store that the build called doubtful."""
    blank: int
    """Rows that the build called blank, or that are, of those looked at."""
    duplicates: int
    """Of the rows looked at. So are `outliers`."""
    outliers: int
    strata: int
    """Labels in splits of datasets."""
    moments: Moments | None
    """Of latents of the rows looked at."""


@dataclass(frozen=True)
class _Found:
    """Rows that were looked at, and what came of it. n of them, ascending."""

    positions: Ints
    examined: Examined
    doubts: Doubts
    """Of the whole store; with the blank rows that were found now."""
    source_n: Ints
    frame_n: Ints
    patient_n: NDArray[Any]
    twins: dict[int, Twin]
    """Place among the rows looked at -> its twin."""
    scores_n: NDArray[np.float64]
    limit: float
    """Score above which a row is an outlier."""

    def places(self, positions: Ints) -> list[int]:
        """Return the places of positions that were looked at."""
        return [int(place) for place in np.searchsorted(self.positions, positions)]

    @property
    def outliers(self) -> list[int]:
        """Places of outliers, the farthest first."""
        return [i for i in np.argsort(-self.scores_n, kind="stable").tolist() if self.scores_n[i] > self.limit]


def choose(store: Store, count: int, teacher: str | None, dataset: str | None = None) -> Chosen:
    """Choose at most `count` rows of a store; with `teacher`, by its latents too.

    Raises:
        UsageError: no row is of that dataset.
        DamageError: a row's bytes are not those that were built.
    """
    sources, doubts, share = Sources.of(store, dataset), doubts_of(store), max(1, count // PARTS)
    drawn = rows_in_turn(store.table, sources, LOOKED_AT * count)
    doubtful, blank = (_wanted(store, sources, kind) for kind in (doubts.doubtful, doubts.blank))
    same = first_rows(store.table, sources.same_content()[: 2 * share])
    some = [_of_many_sources(store, kind, share) for kind in (doubtful, blank)]
    found = _look(store, sources, doubts, np.unique(np.concatenate([drawn, same, *some])), teacher)
    blank_here = found.places(_positions(store, found.examined.blank))
    kinds = [found.places(some[0]), [*found.places(some[1]), *blank_here], _in_pairs(found.twins), found.outliers]
    shares = (share, share, share + share % 2, share)  # twins stay together
    first = [place for kind, most in zip(kinds, shares, strict=True) for place in list(dict.fromkeys(kind))[:most]]
    shown = list(dict.fromkeys([*first, *found.places(drawn)]))[:count]
    return Chosen(
        _described(store, found, shown),
        int(sources.rows_S.sum()),
        len(found.positions),
        len(doubtful),
        len(_wanted(store, sources, found.doubts.blank)),
        len(found.twins),
        len(found.outliers),
        sources.strata,
        found.examined.moments,
    )


def _positions(store: Store, numbers: Iterable[int]) -> Ints:
    """Return the positions of rows that exist, ascending."""
    return np.asarray(np.searchsorted(store.rows, np.array(sorted(numbers), np.int64)), np.int64)


def _wanted(store: Store, sources: Sources, numbers: Iterable[int]) -> Ints:
    """Return the positions of those rows whose sources are wanted."""
    positions = _positions(store, numbers)
    return positions[sources.rows_S[store.table.stretches.at(positions)[0]] > 0]


def _of_many_sources(store: Store, positions: Ints, count: int) -> Ints:
    """Return at most so many of the positions, ascending: of as many sources as there is room for."""
    source = store.table.stretches.at(positions)[0]
    _, first = np.unique(source, return_index=True)
    rest = np.setdiff1d(np.arange(len(positions)), first)
    chosen = spread(first, count)
    chosen = np.concatenate([chosen, spread(rest, count - len(chosen))])
    return np.asarray(positions[np.sort(chosen)], np.int64)


def spread(numbers: Ints, count: int) -> Ints:
    """Return at most `count` of the numbers, evenly spaced."""
    if len(numbers) <= count:
        return numbers
    return np.asarray(numbers[np.linspace(0, len(numbers) - 1, count).round().astype(int)], np.int64)


def _look(store: Store, sources: Sources, doubts: Doubts, positions: Ints, teacher: str | None) -> _Found:
    """Look at the rows at some positions."""
    examined = examine(store, store.row_numbers(positions), teacher)
    source, frame = store.table.stretches.at(positions)
    patient = sources.patient_S[source]
    pooled = examined.pooled_nD
    scores = np.full(len(positions), np.nan) if pooled is None else outlier_scores(pooled, patient)
    return _Found(
        positions,
        examined,
        Doubts(doubts.doubtful, {**doubts.blank, **examined.blank}),
        source,
        frame,
        patient,
        twins(examined.bits_nK, source, patient),
        scores,
        far_out(scores),
    )


def _in_pairs(alike: dict[int, Twin]) -> list[int]:
    """Return the places of near-duplicates, those of other patients and the most alike first, twins together."""
    order = sorted(alike, key=lambda place: (not alike[place].other_patient, alike[place].bits, place))
    return list(dict.fromkeys(one for place in order for one in (place, alike[place].place)))


def _described(store: Store, found: _Found, shown: Sequence[int]) -> list[Row]:
    """Return the rows at some places."""
    numbers, doubts = found.examined.numbers, found.doubts
    called = named(store.table, found.source_n[shown].tolist())
    views = store.table.views_at(found.positions)
    rows = []
    for place in shown:
        number, twin, score = int(numbers[place]), found.twins.get(place), float(found.scores_n[place])
        rows.append(
            Row(
                number=number,
                source=called[int(found.source_n[place])],
                frame=int(found.frame_n[place]),
                view=int(views[place]),
                patient=int(found.patient_n[place]),
                doubtful=doubts.doubtful.get(number, ""),
                blank=doubts.blank.get(number, ""),
                twin=None if twin is None else int(numbers[twin.place]),
                twin_bits=0 if twin is None else twin.bits,
                twin_of_other_patient=twin is not None and twin.other_patient,
                outlier=score,
                is_outlier=score > found.limit,
            )
        )
    return rows
