"""Say what a page shows: its sentence, figures, filters, and what its script needs."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.inspecting.flags import FAR_OUT
from usjepa.cache.inspecting.flags import NEIGHBOURS as OUTLIER_NEIGHBOURS
from usjepa.cache.inspecting.nearest import NEIGHBOURS
from usjepa.cache.perceptual import BITS, NEAR_BITS
from usjepa.cache.store.origins import spacing_text
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
        if self.with_sources:
            notes.append(
                "The frames as their sources have them may show names and dates. Keep this page where the sources are."
            )
        if len(self.cards) < self.made.asked:
            notes.append(f"{self.made.asked:,} rows were chosen; a page of 30 MB has room for {len(self.cards):,}.")
        if self.teacher is None:
            notes.append("The store holds no latents: no colours, outliers or similar patches.")
        elif self.alone:
            notes.append("All rows are of one patient or clip: there are no others to compare patches with.")
        return notes

    @property
    def choice(self) -> str:
        """How the rows were chosen."""
        chosen = self.chosen
        return (
            f"From {chosen.there:,} rows. A fifth of the page each is kept for doubtful rows, blank rows, near-duplicates "
            f"and outliers, as far as there are some; what is left is drawn evenly over the {chosen.strata:,} labels in "
            "splits of datasets, and within each over patients or clips. Doubtful rows, and blank ones that the build "
            "kept, are known of the whole store; near-duplicates, outliers and other blank rows are sought among the "
            f"{chosen.examined:,} rows that were looked at, up to five for each that is shown, drawn in the same way. "
            "The same store gives the same page."
        )

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

    @property
    def meanings(self) -> list[tuple[str, list[str]]]:
        """What each part of a row means, with its formula."""
        found = [
            (
                "Frame and region",
                [
                    "The frame is shown as it is stored, without loss, averaged to 256 pixels where it is larger. Tinted is "
                    "what lies outside the scan region, with its rim in yellow.",
                    "Doubtful: the build recorded that the region may show more than the scan: marks that look like text, "
                    "or no region found, so that all of the screen was taken. Blank: one colour, few grey levels, or next to "
                    "no region.",
                ],
            ),
            (
                "Near-duplicates",
                [
                    f"Two rows of different files whose perceptual hashes differ in at most {NEAR_BITS} of {BITS} bits. Frames "
                    "of one file, and views of one frame, do not count. One of another patient is a leak where a "
                    "patient is to stay on one side of a split. Rows that are equal in the whole store: usjepa-cache stats."
                ],
            ),
        ]
        return [*found, *self._of_latents()] if self.axes is not None else found

    def _of_latents(self) -> list[tuple[str, list[str]]]:
        axes, nearest = self.axes, self.made.nearest
        assert axes is not None
        shares = axes.shares_K[:3]
        each = ", ".join(f"{share:.1%}" for share in shares)
        every = "" if nearest is None or nearest.step == 1 else f", of every {nearest.step}. down and across"
        return [
            (
                "Latents as colours",
                [
                    "Red, green and blue are the three directions in which patches vary most: principal components of the "
                    "latents, each channel standardised, over at most 64 patches of each row that was looked at. Patches "
                    "outside the scan region do not count.",
                    f"They show {shares.sum():.1%} of the variance ({each}). Equal colours mean similar in these directions "
                    "only. Each runs from the 2nd to the 98th percentile of this page: colours of two pages do not compare.",
                ],
            ),
            (
                "Nearest patches of other patients",
                [
                    f"The most similar patches among the rows of this page that are of other patients{every}: the cosine of "
                    f"latents that were standardised channel by channel, projected on their first {len(axes.shares_K)} principal "
                    f"components, which hold {axes.shares_K.sum():.1%} of the variance. They are not whitened.",
                    "First comes one patch of each patient, so that a clip of one does not take all places. Patches outside "
                    "the scan region are neither asked nor found. A source without a group counts as a patient of its own.",
                ],
            ),
            (
                "Outliers",
                [
                    "Score: the mean Euclidean distance of a row's mean latent (over patches that touch the region, each channel "
                    f"standardised) to the {OUTLIER_NEIGHBOURS} nearest rows of other patients, divided by the median of that over all "
                    "rows looked at. About 1 is usual.",
                    f"A row is called an outlier above the third quartile plus {FAR_OUT:g} interquartile ranges (Tukey's far out).",
                ],
            ),
        ]


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
