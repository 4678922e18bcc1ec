"""Make the pictures and neighbours of a page's rows, within a size.

Shape suffixes: R rows, T patches, K axes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.inspecting.axes import colours_of
from usjepa.cache.inspecting.examining import patches_of, pieces
from usjepa.cache.inspecting.nearest import NBYTES, Nearest, nearest
from usjepa.cache.inspecting.pictures import cells_of, colours_uri, frame_uri, region_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.inspecting.axes import Axes
    from usjepa.cache.inspecting.choosing import Row
    from usjepa.cache.reading.store import Store

_TEXT_NBYTES = 3000
"""What a card needs beside its pictures and names."""
_ESCAPED = 16
"""Bytes that a character of a name may become on a page, where it stands as text, as a choice and as data."""


@dataclass(frozen=True)
class Card:
    """A row and its pictures, as data URIs."""

    row: Row
    frame: str
    region: str
    """What lies over the frame; empty where the region is all of it."""
    was: str = ""
    """The frame as its source has it; empty where that is not known. So is `colours`."""
    colours: str = ""

    def nbytes(self, tokens: int) -> int:
        """Return about how many bytes of a page it takes, its neighbours included."""
        names = sum(map(len, (*self.row.source, self.row.doubtful, self.row.blank)))
        pictures = len(self.frame) + len(self.region) + len(self.was)
        return pictures + tokens * (4 + NBYTES) * 4 // 3 + _TEXT_NBYTES + _ESCAPED * names


@dataclass(frozen=True)
class Cards:
    """The cards of a page, and the neighbours of their patches."""

    cards: list[Card]
    asked: int
    """Rows that were chosen; more than there are cards where the page would be too large."""
    nearest: Nearest | None
    """None without latents."""


@dataclass(frozen=True)
class _Drawn:
    """What was read of the rows, by row number."""

    cards: dict[int, Card]
    coordinates: dict[int, NDArray[np.float32]]
    """[T, K] of each row."""
    valid: dict[int, NDArray[np.bool_]]
    """[T] patches that touch the region."""


def cards_of(
    store: Store, rows: Sequence[Row], teacher: str | None, axes: Axes | None, was: Mapping[int, str], limit: int
) -> Cards:
    """Return the cards of as many rows as a page has room for, those that need a look first.

    Args:
        store: which they are of.
        rows: in the order in which they were chosen; those that don't fit are left out at the end.
        teacher: whose latents; None for none.
        axes: of its latents.
        was: row number -> data URI of the frame as its source has it.
        limit: bytes of the page.
    """
    drawn = _draw(store, rows, teacher, axes, was)
    tokens = 0 if teacher is None else store.layers[f"latents/{teacher}"].shape[0]
    kept: list[Row] = []
    for row in rows:
        limit -= drawn.cards[row.number].nbytes(tokens)
        if limit < 0:
            break
        kept.append(row)
    kept = _in_order(kept)
    cards = [drawn.cards[row.number] for row in kept]
    if axes is None or not kept:
        return Cards(cards, len(rows), None)
    coordinates = np.stack([drawn.coordinates[row.number] for row in kept])
    valid = np.stack([drawn.valid[row.number] for row in kept])
    coloured = colours_of(coordinates, valid)
    cards = [replace(card, colours=colours_uri(colours)) for card, colours in zip(cards, coloured, strict=True)]
    patients = np.array([row.patient for row in kept], np.uint64)
    return Cards(cards, len(rows), nearest(coordinates, valid, patients))


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """Return rows by what needs a look; of doubtful and blank ones a row of each source before a second of any."""
    seen: Counter[tuple[Any, ...]] = Counter()
    turns = {}
    for row in sorted(rows, key=lambda row: row.number):
        kind = (row.source.path, row.concern)
        turns[row.number] = seen[kind] if row.doubtful or row.blank else 0
        seen[kind] += 1
    return sorted(rows, key=lambda row: (row.concern, turns[row.number], row.number))


def _draw(store: Store, rows: Sequence[Row], teacher: str | None, axes: Axes | None, was: Mapping[int, str]) -> _Drawn:
    """Read rows piece by piece; of each its pictures stay, and where its patches lie on the axes."""
    drawn, known = _Drawn({}, {}, {}), {row.number: row for row in rows}
    for batch in pieces(store, np.array(sorted(known), np.int64), teacher, "drawing rows"):
        cells = cells_of(batch, store.size)
        for place, number in enumerate(batch.rows.tolist()):
            uris = frame_uri(batch.pixels[place]), region_uri(cells[place]), was.get(number, "")
            drawn.cards[number] = Card(known[number], *uris)
        if axes is not None:
            coordinates = axes.project(batch.targets().numpy())
            valid = patches_of(cells, coordinates.shape[1])
            for place, number in enumerate(batch.rows.tolist()):
                drawn.coordinates[number], drawn.valid[number] = coordinates[place], valid[place]
    return drawn
