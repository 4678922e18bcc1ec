"""Cut the frames of a published task into a pixels-only store beside the report, once.

Only view 0 is cut. Labels, groups and splits are not taken from that store but read anew from the layout at every call,
so that mending a label cuts no frame again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.identity import digest_of
from usjepa.cache.sources.base import PHANTOM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.sources.base import Listing
    from usjepa.evaluate.tasks.base import Labelled, TaskFolder

_PUBLIC = ("ultrabench", "busbra", "tn5000")
"""Layouts of benchmarks that are public: many of their images are crops without a border, and are taken whole."""
FileKey = tuple[str, str]
"""Dataset and path of a source, as the store names them."""


@dataclass(frozen=True)
class Known:
    """What a layout lists about a store's sources."""

    files: Mapping[FileKey, Labelled]
    name: str
    layout: str
    notes: tuple[str, ...] = ()


def cut(folder: TaskFolder, out: Path, recipe: Recipe) -> tuple[Store, Known]:
    """Cut a task's frames into a pixels-only store under OUT, or find an earlier call's; return it, and what is known.

    Raises:
        SourceError: a frame can't be read, or was edited since it was cut.
    """
    from usjepa.cache.building.build import build
    from usjepa.cache.building.request import BuildRequest
    from usjepa.cache.reading.store import open_store

    views = recipe.cache.views.model_copy(update={"count": 1})
    # A score is of every labelled frame, whatever a recipe thins out for training.
    settings = recipe.cache.model_copy(update={"views": views, "teacher": None, "min_change": 0})
    # Place and settings are part of the name, so that another recipe or folder never grows this store.
    mark = digest_of({"source": str(folder.root), "name": folder.name, "cache": settings.model_dump(mode="json")})[:8]
    location = str(out / "tasks" / f"{folder.name}-{mark}.zarr")
    listing, files = _listing(folder, settings)
    if folder.layout in _PUBLIC:
        preprocess = settings.preprocess.model_copy(update={"whole": "keep"})
        settings = settings.model_copy(update={"preprocess": preprocess})
    build(location, recipe.model_copy(update={"cache": settings}), BuildRequest(listing=listing))
    return open_store(location), Known(files, folder.name, folder.layout, folder.notes)


def _listing(folder: TaskFolder, settings: CacheSettings) -> tuple[Listing, dict[FileKey, Labelled]]:
    """Return a task's files as stage one lists sources, and what is known of each under the name it is stored by."""
    from usjepa.cache.sources.folders import Metadata
    from usjepa.cache.sources.listing import list_files

    ordered = sorted(folder.files, key=lambda file: file.path)
    known = [(f.path, Metadata(f.dataset or folder.name, f.group or f.path, f.label, f.split)) for f in ordered]
    listing = list_files(None if str(folder.root) == PHANTOM else folder.root, known, settings)
    return listing, {(e.dataset, e.path): file for e, file in zip(listing.entries, ordered, strict=True)}
