"""Cache a frozen teacher's latents once: sources -> views -> teacher -> store.

`open_store` reads a store and `build` makes one. The rooms, along the way of a row: `sources` and `scanning` list and
count files, `decoding` and `frames` cut views, `teacher` computes latents, `building` drives them, `store` and
`storage` write, `reading` reads, `several` reads several stores as one. `planning` predicts a build, `upkeep` checks
and repairs a store, `recipes` has the settings and `commands` the command line.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usjepa.cache.building.build import build
    from usjepa.cache.building.request import BuildRequest
    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.reading.store import Store, open_store
    from usjepa.cache.several.stores import Stores, open_stores
    from usjepa.cache.store.origins.table import Table

if sys.platform == "win32":
    raise ImportError(
        "usjepa runs on Linux and macOS: claims, durable writes and decoding children rest on what Windows lacks. "
        "Install it inside WSL 2, where it runs as on Linux (docs/reference/platforms.md)."
    )

__all__ = ["Batch", "BuildRequest", "Store", "Stores", "Table", "build", "open_store", "open_stores"]

_MODULES = {
    "Batch": "reading.batch",
    "BuildRequest": "building.request",
    "Store": "reading.store",
    "Stores": "several.stores",
    "Table": "store.origins.table",
    "build": "building.build",
    "open_store": "reading.store",
    "open_stores": "several.stores",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `usjepa-cache --help` must not wait for NumPy, Zarr or torch.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
