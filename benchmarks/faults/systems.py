"""Keep rows on disk in the ways that are compared: this store, Zarr, HDF5, .pt files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import h5py
import numpy as np
import torch
import zarr

from tests.support.stores import tables
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

ROWS, SHARD, SHAPE = 64, 16, (49, 64)


class System(Protocol):
    """A way to keep rows on disk."""

    name: str

    def write(self, root: Path, seed: int) -> None:
        """Write the content of a seed."""
        ...

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (row, content) of every row that the reader believes to be there."""
        ...

    def files(self, root: Path) -> list[Path]:
        """Return the files that hold rows."""
        ...


class Usjepa:
    name = "usjepa"

    def write(self, root: Path, seed: int) -> None:
        rows = latents(seed)
        writer = StoreWriter(LocalStorage(root))
        writer.create_or_open(SHARD)
        writer.add_segment(*tables(len(rows)), len(rows))
        blank = np.zeros((SHARD, 1, 4, 4), np.uint8), np.zeros((SHARD, 1), np.uint8)
        layers = [
            Layer("pixels", "uint8", (1, 4, 4), SHARD, {"recipe": "faults"}),
            Layer("regions", "uint8", (1,), SHARD, {"recipe": "faults"}),
            Layer("latents/toy", "float16", SHAPE, SHARD, {"weights": "0"}),
        ]
        for layer in layers:
            writer.add_layer(layer)
        for shard in range(len(rows) // SHARD):
            part = rows[shard * SHARD : (shard + 1) * SHARD]
            for layer, content in zip(layers, (*blank, part), strict=True):
                writer.write_shard(layer, shard, content, (), {})
        writer.seal()

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        store = open_store(root, allow_partial=True)
        for row in store.rows.tolist():
            yield row, store.read([row], layers=["latents/toy"]).latents[0]

    def files(self, root: Path) -> list[Path]:
        return sorted((root / "latents/toy").glob("c.*"))


class Zarr:
    """zarr-python with its defaults: a chunk a row, zstd; or sharded, as it is used for many small rows."""

    def __init__(self, sharded: bool) -> None:
        self.name = f"zarr {zarr.__version__}{' sharded' if sharded else ''}"
        self._shards = (SHARD, *SHAPE) if sharded else None

    def write(self, root: Path, seed: int) -> None:
        rows = latents(seed)
        array = zarr.create_array(root, shape=rows.shape, chunks=(1, *SHAPE), shards=self._shards, dtype=rows.dtype)
        step = SHARD if self._shards else 1
        for start in range(0, len(rows), step):
            array[start : start + step] = rows[start : start + step]

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        array = zarr.open_array(root, mode="r")
        for row in range(array.shape[0]):
            yield row, np.asarray(array[row])

    def files(self, root: Path) -> list[Path]:
        return sorted(path for path in (root / "c").rglob("*") if path.is_file())


class Hdf5:
    name = f"h5py {h5py.__version__}"

    def write(self, root: Path, seed: int) -> None:
        rows = latents(seed)
        root.mkdir(parents=True)
        with h5py.File(root / "latents.h5", "w") as file:
            data = file.create_dataset("latents", rows.shape, rows.dtype, chunks=(1, *SHAPE))
            for row, content in enumerate(rows):
                data[row] = content

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        with h5py.File(root / "latents.h5") as file:
            for row in range(len(file["latents"])):
                yield row, file["latents"][row]

    def files(self, root: Path) -> list[Path]:
        return [root / "latents.h5"]


class TorchFiles:
    name = ".pt files"

    def write(self, root: Path, seed: int) -> None:
        rows = latents(seed)
        root.mkdir(parents=True)
        for row, content in enumerate(rows):
            torch.save(torch.from_numpy(content), root / f"{row:06d}.pt")

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        for path in sorted(root.glob("*.pt")):
            yield int(path.stem), torch.load(path, weights_only=True).numpy()

    def files(self, root: Path) -> list[Path]:
        return sorted(root.glob("*.pt"))


def latents(seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(ROWS, *SHAPE)).astype(np.float16)
