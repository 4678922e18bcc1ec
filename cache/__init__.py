"""Stage one: sources -> views -> frozen teacher -> store; and the store's reader, `open_store`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.reading.store import Store, open_store
    from usjepa.cache.store.origins import Table

__all__ = ["Batch", "Store", "Table", "open_store"]

_MODULES = {
    "Batch": "reading.batch",
    "Store": "reading.store",
    "Table": "store.origins",
    "open_store": "reading.store",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `usjepa-cache --help` must not wait for NumPy, Zarr or torch.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
