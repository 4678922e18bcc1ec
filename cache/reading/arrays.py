"""Offer a layer as a Zarr or a Dask array to other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    import dask.array
    import zarr
    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.layers import Layer


def zarr_array_of(storage: Storage, name: str) -> zarr.Array[Any]:
    """Return a layer, opened read-only by zarr-python; see `Store.zarr_array`."""
    import zarr

    if isinstance(storage, LocalStorage):
        return zarr.open_array(storage.path(name), mode="r")
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    return zarr.open_array(ObjectStore(from_url(storage.url), read_only=True), path=name, mode="r")


def dask_array_of(read: Callable[..., Batch], rows: NDArray[np.int64], layer: Layer) -> dask.array.Array:
    """Return rows of a layer as a lazy array with a block per shard; see `Store.dask_array`."""
    import dask.array as da
    from dask.delayed import delayed

    starts = np.flatnonzero(np.diff(rows // layer.rows_per_shard, prepend=-1))
    per_shard = tuple(np.diff(starts, append=len(rows)).tolist())
    array: dask.array.Array = da.map_blocks(
        _read_block,
        da.from_array(rows, chunks=(per_shard,)),
        delayed(read, pure=False),  # one object, which every task refers to
        layer.name,
        new_axis=list(range(1, 1 + len(layer.shape))),
        chunks=(per_shard, *((n,) for n in layer.shape)),
        dtype=np.dtype(layer.dtype),
        meta=np.empty((0, *layer.shape), layer.dtype),
    )
    return array


def _read_block(rows: NDArray[np.int64], read: Callable[..., Batch], name: str) -> NDArray[Any]:
    return read(rows, layers=[name]).arrays[name]
