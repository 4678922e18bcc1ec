"""Stage one: sources -> views -> frozen teacher -> store; and the store's reader, `open_store`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.reading.store import Store, open_store

__all__ = ["Batch", "Store", "open_store"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `usjepa-cache --help` must not wait for NumPy, Zarr or torch.
    if name in __all__:
        from usjepa.cache.reading import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
