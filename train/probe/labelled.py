"""Find the labelled frames behind `train.probe`, in a store or cut into one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import UsageError
from usjepa.cache.identity import digest_of
from usjepa.cache.reading.store import open_store
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.sources.columns import is_missing
from usjepa.cache.sources.folders import Metadata
from usjepa.cache.sources.listing import list_files
from usjepa.cache.storage.location import open_storage
from usjepa.cache.storage.urls import is_url
from usjepa.train.probe.folds import Folds, LabelledFile, fold_files, thinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.sources.base import Entry, Listing


@dataclass(frozen=True)
class Labelled:
    """A store, and which of its sources take part."""

    name: str
    store: Store
    folds: Folds
    """Whose `files` are sources of the store."""


def find_labelled(place: str, work: Path, recipe: Recipe) -> Labelled:
    """Return the labelled frames at `PATH[::DATASET]`.

    Args:
        place: a store, or what `usjepa-cache build --source` takes.
        work: folder for frames that are cut; a later call finds them there.
        recipe: how frames are cut and split, and how many files are taken.

    Raises:
        UsageError: there is nothing, no label, several datasets, or too few groups.
        SourceError: a file can't be read, and the recipe does not skip such.
    """
    path, mark, dataset = place.rpartition("::")
    path = path if mark else place
    if _is_store(path):
        store = open_store(path)
        return Labelled(_name(path), store, _of_store(store, place, dataset if mark else None, recipe))
    if path != PHANTOM and not Path(path).exists():
        raise UsageError(
            f"train.probe={place}: no such store, folder, file or manifest. Name one, or leave it out "
            "(train.probe=null)."
        )
    listing = list_source(path, recipe.cache.model_copy(update={"hash_paths": False}))
    which = _of_dataset(listing.entries, place, dataset if mark else None)
    those = [listing.entries[int(i)] for i in which]
    folds = fold_files(those, recipe, place, scanned=False)
    folds = folds.only(thinned(folds.groups, recipe.train.probe_frames))
    chosen = [those[i] for i in folds.files]
    store, entries = _cut(listing, chosen, work, recipe, path)
    return Labelled(_name(path), store, _in_store(folds, entries, store))


def _name(path: str) -> str:
    return Path(path).stem or "probe"


def _is_store(path: str) -> bool:
    return (is_url(path) or Path(path).is_dir()) and open_storage(path).size("zarr.json") is not None


def _of_store(store: Store, place: str, dataset: str | None, recipe: Recipe) -> Folds:
    """Return the folds of a store's sources that have rows."""
    rows_S = store.table.stretches.rows_per_source(len(store.table.sources))
    sources = [store.table.sources[i] for i in range(len(rows_S))]
    there = np.flatnonzero(rows_S > 0)
    which = there[_of_dataset([sources[i] for i in there], place, dataset)]
    folds = fold_files([sources[i] for i in which], recipe, place, scanned=True)
    return replace(folds, files=which[folds.files])


def _of_dataset(
    files: Sequence[LabelledFile], place: str, dataset: str | None
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return which files are of the dataset that is named, or of the only one with labels."""
    names = sorted({file.dataset for file in files if dataset is not None or not is_missing(file.label)})
    if dataset is not None and dataset not in names:
        raise UsageError(f"train.probe={place}: no dataset {dataset!r}; it holds {', '.join(names)}.")
    if dataset is None and len(names) > 1:
        raise UsageError(
            f"train.probe={place}: holds {len(names)} labelled datasets, {', '.join(names[:8])}, whose classes are not "
            f"the same task. Name one: {place}::{names[0]}"
        )
    chosen = dataset if dataset is not None else (names[0] if names else None)
    return np.flatnonzero([file.dataset == chosen for file in files])


def _in_store(folds: Folds, entries: Sequence[LabelledFile], store: Store) -> Folds:
    """Return the folds of listed files as those of the store's sources; a file without an image is in none."""
    number = {(source.dataset, source.path): i for i, source in enumerate(store.table.sources)}
    places = np.array([number.get((entry.dataset, entry.path), -1) for entry in entries], np.int64)
    there = folds.only(np.flatnonzero(places >= 0))
    return replace(there, files=places[places >= 0])


def _cut(
    listing: Listing, chosen: Sequence[LabelledFile], work: Path, recipe: Recipe, path: str
) -> tuple[Store, tuple[Entry, ...]]:
    """Cut files into a store of plain frames, or find an earlier call's; return also what each is called there."""
    views = recipe.cache.views.model_copy(update={"count": 1})
    settings = recipe.cache.model_copy(update={"views": views, "teacher": None, "min_change": 0, "test_fraction": 0.0})
    known = [(f.path, Metadata(f.dataset, f.group or f.path, f.label, f.split)) for f in chosen]
    # Place, files and settings are part of the name, so that another set never grows this store.
    source = path if listing.root is None else str(listing.root)
    mark = digest_of({"source": source, "files": [f.path for f in chosen], "cache": settings.model_dump(mode="json")})
    location = str(work / f"{_name(path)}-{mark[:8]}.zarr")
    only = list_files(listing.root, known, settings)
    build(location, recipe.model_copy(update={"cache": settings}), BuildRequest(listing=only))
    return open_store(location), tuple(only.entries)
