"""Find the frames to embed in a store, or cut them into one first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.identity import digest_of
from usjepa.cache.reading.store import open_store
from usjepa.cache.scanning.scan import list_source
from usjepa.evaluate.tasks.find import is_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.sources.base import Listing


@dataclass(frozen=True)
class Frames:
    """Whole frames (view 0) of a store, in the order of its rows."""

    name: str
    store: Store
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self) -> Mapping[str, NDArray[np.object_] | NDArray[np.int64] | NDArray[np.float64]]:
        """Return what is known of each frame: its row, the path and number of the frame, dataset, group, label, split.

        Texts are "" where nothing is known. Where a store hides its paths, these are the hidden ones. Where it knows a
        spacing of some rows, also that: millimetres per stored pixel down and across, NaN for the others.
        """
        table = self.store.table
        here = np.searchsorted(self.store.rows, self.rows)
        paths = np.array([source.path for source in table.sources], dtype=object)
        spacing = self.store.spacing
        scale = {"spacing_down": spacing[here, 0], "spacing_across": spacing[here, 1]}
        return {
            "row": self.rows,
            "path": paths[table.source[here]],
            "frame": table.frame[here].astype(np.int64),
            **{name: getattr(table, name)[here] for name in ("dataset", "group", "label", "split")},
            **({} if np.isnan(spacing).all() else scale),
        }


def find_frames(source: str, work: Path, recipe: Recipe) -> Frames:
    """Return the frames of a store, or of a folder, file or manifest whose frames are first cut into a store in `work`.

    Args:
        source: a store, or what `usjepa-cache build --source` takes.
        work: folder for the cut frames; a second call goes on there.
        recipe: its `cache` section says how frames are cut.

    Raises:
        UsageError: there is no such source, or it holds nothing that is read.
        SourceError: a file can't be read, and the recipe does not skip such.
    """
    location = source
    if not is_store(source):
        views = recipe.cache.views.model_copy(update={"count": 1})
        settings = recipe.cache.model_copy(update={"views": views, "teacher": None})
        listing = list_source(source, settings)
        # What is cut is part of the name, so that what a call for other files left here is not taken for these.
        location = str(work / f"frames-{_mark(source, listing, settings)}.zarr")
        build(location, recipe.model_copy(update={"cache": settings}), BuildRequest(listing=listing))
    store = open_store(location)
    return Frames(Path(source).name or source, store, store.rows[store.table.view == 0])


def _mark(source: str, listing: Listing, settings: CacheSettings) -> str:
    """Return 8 hex digits of a source's place, its files and how they are cut."""
    place = source if listing.root is None else str(listing.root.resolve())
    files = xxhash.xxh3_128()
    for entry in listing.entries:
        files.update(f"{entry.dataset}\0{entry.path}\0".encode("utf-8", "surrogateescape"))
    told = {"source": place, "files": files.hexdigest(), "cache": settings.model_dump(mode="json")}
    return digest_of(told)[:8]
