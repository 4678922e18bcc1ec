"""Say what a page shows: its sentence, figures, filters, and what its script needs."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.inspecting.nearest import NEIGHBOURS
from usjepa.cache.perceptual import BITS
from usjepa.cache.store.origins.spacing import spacing_text
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from usjepa.cache.inspecting.axes import Axes
    from usjepa.cache.inspecting.cards import Card, Cards
    from usjepa.cache.inspecting.choosing import Chosen, Row
    from usjepa.cache.reading.store import Store

_UNNAMED = {"dataset": "no dataset", "label": "no label", "split": "no split", "group": "no group"}
_TITLES = {"dataset": "Dataset", "label": "Label", "split": "Split", "group": "Patient or clip (group)"}


class Filter(NamedTuple):
    """A choice of rows by what their sources are called."""

    key: str
    title: str
    names: list[tuple[str, int]]
    """Each name, and how many rows of the page have it."""


@dataclass(frozen=True)
class View:
    """What the templates show."""

    store: Store
    chosen: Chosen
    made: Cards
    teacher: str | None
    axes: Axes | None
    with_sources: bool
    dataset: str | None
    cut: list[str]
    """That rows were left out, because the page would be too large."""

    @property
    def cards(self) -> list[Card]:
        """The rows of the page, those that need a look first."""
        return self.made.cards

    @property
    def numbers(self) -> set[int]:
        """Row numbers of the page."""
        return {card.row.number for card in self.cards}

    @property
    def patches(self) -> bool:
        """Whether patches can be asked for their neighbours."""
        return self.made.nearest is not None

    @property
    def alone(self) -> bool:
        """Whether all rows of the page are of one patient."""
        return len({card.row.patient for card in self.cards}) < 2

    @property
    def name(self) -> str:
        """The store's name, without the path to it."""
        return shown_name(self.store.location.rstrip("/").rpartition("/")[2] or self.store.location)

    @property
    def flags(self) -> list[tuple[str, str, int]]:
        """Key, name and count on this page of what may need a look."""
        rows = [card.row for card in self.cards]
        return [
            ("doubtful", "doubtful regions", sum(bool(row.doubtful) for row in rows)),
            ("blank", "blank rows", sum(bool(row.blank) for row in rows)),
            ("duplicate", "near-duplicates", sum(row.twin is not None for row in rows)),
            ("outlier", "outliers", sum(row.is_outlier for row in rows)),
        ]

    @property
    def answer(self) -> str:
        """What a reader wants to know first."""
        chosen = self.chosen
        of = f" of dataset {shown_name(self.dataset)}" if self.dataset is not None else ""
        sought = [
            (chosen.doubtful, "doubtful region", "doubtful regions"),
            (chosen.blank, "blank row", "blank rows"),
            (chosen.duplicates, "near-duplicate in another file", "near-duplicates in other files"),
            (chosen.outliers, "outlier", "outliers"),
        ]
        found = [f"{count:,} {one if count == 1 else many}" for count, one, many in sought if count]
        told = f"{', '.join(found)} found." if found else "nothing found that needs a look."
        return f"{len(self.cards):,} of {chosen.there:,} rows{of} are shown, {chosen.examined:,} were looked at: {told}"

    @property
    def tiles(self) -> list[tuple[str, str]]:
        """Figures and what they are."""
        chosen = self.chosen
        patients = len({card.row.patient for card in self.cards})
        return [
            (f"{len(self.cards):,}", f"rows shown, of {patients:,} patients or clips"),
            (f"{chosen.examined:,}", f"rows looked at, of {chosen.there:,}"),
            (f"{chosen.doubtful:,}", f"doubtful regions among all {chosen.there:,}"),
            (f"{chosen.blank:,}", "blank rows found"),
            (f"{chosen.duplicates:,}", f"near-duplicates among {chosen.examined:,}"),
            (f"{chosen.outliers:,}" if self.teacher else "\N{EN DASH}", f"outliers among {chosen.examined:,}"),
        ]

    @property
    def notes(self) -> list[str]:
        """What a reader must know before passing the page on, or believing it."""
        store, notes = self.store, []
        if store.generation == 0:
            notes.append("The store is not sealed: only rows that every layer has finished are here.")
        preprocess = store.identity["pixels"].get("preprocess")
        if isinstance(preprocess, dict) and preprocess.get("deidentify") is False:
            notes.append("Stored with deidentify=false: frames may show names and dates. Pass this page on to nobody.")
        doubtful = sum(bool(card.row.doubtful) for card in self.cards)
        if doubtful:
            notes.append(
                f"{doubtful:,} of these rows may show more than the scan (doubtful regions): look for names on them "
                "before this page, or the store, is passed on."
            )
        if self.with_sources:
            notes.append(
                "The frames as their sources have them may show names and dates. Keep this page where the sources are."
            )
        notes += self.cut
        if self.teacher is None:
            notes.append("The store holds no latents: no colours, outliers or similar patches.")
        elif self.alone:
            notes.append("All rows are of one patient or clip: there are no others to compare patches with.")
        return notes

    @property
    def store_facts(self) -> list[tuple[str, str]]:
        """What the page was made from."""
        store = self.store
        facts = [("Rows", f"{len(store):,}"), ("Pixels", f"{store.channels} x {store.size} x {store.size}")]
        if store.generation:
            facts.append(("Generation", f"{store.generation}, content {store.digest}"))
        if self.teacher is not None:
            layer = store.layers[f"latents/{self.teacher}"]
            tokens, dim = layer.shape
            facts.append(("Latents", f"{self.teacher}: {tokens} patches of {dim} numbers, {layer.dtype}"))
        return [*facts, ("Spacing", spacing_text(store.spacing).removeprefix("spacing: "))]

    @property
    def filters(self) -> list[Filter]:
        """Choices by dataset, label, split and group."""
        found = []
        for key in _UNNAMED:
            names = self._names(key)
            counts = np.bincount([names[getattr(card.row.source, key)] for card in self.cards])
            shown = [shown_name(name) or _UNNAMED[key] for name in names]
            found.append(Filter(key, _TITLES[key], list(zip(shown, counts.tolist(), strict=True))))
        return found

    def _names(self, key: str) -> dict[str, int]:
        """Return the names of a kind that rows of the page have -> their number, sorted."""
        names = sorted({getattr(card.row.source, key) for card in self.cards})
        return {name: number for number, name in enumerate(names)}

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        codes = {key: self._names(key) for key in _UNNAMED}
        names = {key: [shown_name(name) or _UNNAMED[key] for name in codes[key]] for key in codes}
        found = self.made.nearest
        edge = 0 if found is None else math.isqrt(found.row_RTN.shape[1])
        rows = []
        for place, card in enumerate(self.cards):
            row = card.row
            rows.append(
                {key: codes[key][getattr(row.source, key)] for key in codes}
                | {
                    "number": row.number,
                    "doubtful": bool(row.doubtful),
                    "blank": bool(row.blank),
                    "bits": None if row.twin is None else row.twin_bits,
                    "otherPatient": row.twin_of_other_patient,
                    "outlier": None if math.isnan(row.outlier) else round(row.outlier, 4),
                    "isOutlier": row.is_outlier,
                    "nearest": "" if found is None else base64.b64encode(found.packed(place)).decode(),
                }
            )
        return {"rows": rows, "names": names, "edge": edge, "neighbours": NEIGHBOURS, "alone": self.alone}

    def share(self, count: int) -> str:
        """Return how much of the latents' variance the first axes hold."""
        assert self.axes is not None
        return f"{self.axes.shares_K[:count].sum():.1%}"

    @property
    def step(self) -> int:
        """Every how many patches neighbours were sought among."""
        return 1 if self.made.nearest is None else self.made.nearest.step


def concerns(row: Row) -> list[tuple[str, int | None]]:
    """Return why a row may need a look, each with the row that the reason names."""
    found: list[tuple[str, int | None]] = []
    if row.doubtful:
        found.append((f"doubtful: {shown_name(row.doubtful)}", None))
    if row.blank:
        found.append((f"blank: {shown_name(row.blank)}", None))
    if row.twin is not None:
        of = "another patient" if row.twin_of_other_patient else "another file of this patient"
        found.append((f"near-duplicate of {of}, {row.twin_bits} of {BITS} bits differ:", row.twin))
    if row.is_outlier:
        found.append((f"outlier: score {row.outlier:.2f}", None))
    return found
