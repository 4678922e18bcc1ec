"""Choose what a copy takes of a store: layers, datasets and rows."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.store.tables import WITHDRAWN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.store import Store
    from usjepa.cache.store.generations import Manifest

ALWAYS = ("pixels", "regions")
"""Layers without which there is no store."""


@dataclass(frozen=True)
class Selection:
    """What is copied; what is empty leaves nothing out."""

    layers: tuple[str, ...] = ()
    """Names of layers, or of teachers; pixels and regions always come along, and scales with their latents."""
    datasets: tuple[str, ...] = ()
    """Names, or texts of names with commas between, until `among` tells them apart."""
    rows: tuple[tuple[int, int], ...] = ()
    """(first, one past the last) row numbers."""

    @property
    def numbers_anew(self) -> bool:
        """Whether rows are left out, so that the others move up."""
        return bool(self.datasets or self.rows)

    def to_json(self) -> dict[str, Json]:
        """Return it as the mark of an unfinished copy holds it."""
        return {"layers": list(self.layers), "datasets": list(self.datasets), "rows": [list(r) for r in self.rows]}

    def among(self, store: Store) -> Selection:
        """Return it with the names of data sets apart, which may come with commas between; UsageError for others."""
        if not self.datasets:
            return self
        known = sorted({source.dataset for source in store.table.sources if source.error != WITHDRAWN})
        found = [name for text in self.datasets for name in ([text] if text in known else text.split(","))]
        names = [name if name in known else name.strip() for name in found]
        _check_names(names, known, store.location)
        return replace(self, datasets=tuple(names))

    def layers_of(self, manifest: Manifest, where: str) -> tuple[str, ...]:
        """Return the names of the layers that are copied, sorted; raises UsageError for one that there is not."""
        if not self.layers:
            return tuple(sorted(manifest.layers))
        wanted = set(ALWAYS)
        for name in self.layers:
            teacher = name.removeprefix("latents/").removeprefix("scales/")
            found = {name, f"latents/{teacher}", f"scales/{teacher}"} & set(manifest.layers)
            if not found:
                raise UsageError(f"{where}: no layer {name!r}; it holds {', '.join(sorted(manifest.layers))}.")
            wanted |= found
        return tuple(sorted(wanted))

    def thinned(self, manifest: Manifest, where: str) -> Manifest:
        """Return a generation with the chosen layers alone."""
        names = self.layers_of(manifest, where)
        if len(names) == len(manifest.layers):
            return manifest
        return replace(
            manifest,
            layers={name: manifest.layers[name] for name in names},
            tables={name: manifest.tables[name] for name in names},
            soft={name: manifest.soft[name] for name in names},
            repaired=tuple(entry for entry in manifest.repaired if entry["layer"] in names),
            audits=tuple(entry for entry in manifest.audits if entry["layer"] in names),
        )

    def rows_of(self, store: Store) -> NDArray[np.int64]:
        """Return the numbers of the rows that are copied, ascending; raises UsageError where there is none."""
        chosen = np.ones(len(store), bool)
        if self.datasets:
            chosen &= np.isin(store.table.dataset.astype(str), self.datasets)
        if self.rows:
            inside = [(store.rows >= first) & (store.rows < stop) for first, stop in self.rows]
            chosen &= np.logical_or.reduce(inside)
        if not chosen.any():
            raise UsageError(f"{store.location}: none of its {len(store):,} rows is chosen, so there is nothing to do.")
        numbers: NDArray[np.int64] = store.rows[chosen]
        return numbers


def range_of(text: str) -> tuple[int, int]:
    """Return what `FIRST:STOP` means; raises UsageError."""
    found = re.fullmatch(r"(\d{1,15}):(\d{1,15})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UsageError(f"--rows {text}: give FIRST:STOP with FIRST < STOP, for example --rows 0:1000,5000:6000.")
    return int(found[1]), int(found[2])


def _check_names(names: Iterable[str], known: list[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{where}: no dataset {name!r}; it holds {', '.join(map(repr, known))}.")
