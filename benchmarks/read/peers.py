"""How others keep and read the same rows: a contender is `prepare(folder, latents)` and `open(folder)`.

Each reads whole rows by number into an array of the batch's shape, by the fastest call of its library that we know of.
Missing packages are named by the benchmark, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, np.dtype[Any]]
Read = Callable[[Array], Array]


def zarr_python(store: Path, latents: Array) -> dict[str, Read]:
    """zarr-python over the very shards that usjepa wrote, by every pipeline that this release has."""
    import zarr

    def opened(pipeline: str | None) -> Any:
        with zarr.config.set({"codec_pipeline.path": pipeline} if pipeline else {}):
            return zarr.open_array(store / "latents/vitb", mode="r")

    plain = opened(None)
    found: dict[str, Read] = {
        "zarr-python oindex": lambda rows: np.asarray(plain.oindex[rows]),
        "zarr-python row by row": lambda rows: np.stack([np.asarray(plain[int(row)]) for row in rows]),
    }
    if hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):
        fused = opened("zarr.core.codec_pipeline.FusedCodecPipeline")
        found["zarr-python oindex, fused"] = lambda rows: np.asarray(fused.oindex[rows])
    return found


def zarrs(store: Path, latents: Array) -> dict[str, Read]:
    import zarr
    import zarrs  # noqa: F401 - registers the pipeline

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(store / "latents/vitb", mode="r")
    return {"zarr-python with zarrs, row by row": lambda rows: np.stack([np.asarray(array[int(row)]) for row in rows])}


def tensorstore(store: Path, latents: Array) -> dict[str, Read]:
    import tensorstore as ts

    path = str(store / "latents/vitb")
    array = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}).result()
    return {"TensorStore": lambda rows: np.asarray(array[rows].read().result())}


def h5py(store: Path, latents: Array) -> dict[str, Read]:
    import h5py

    path = store.with_name("flat.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("latents", data=latents, chunks=(1, *latents.shape[1:]))
    data = h5py.File(path, "r")["latents"]
    return {"h5py row by row": lambda rows: np.stack([data[row] for row in rows])}


def safetensors(store: Path, latents: Array) -> dict[str, Read]:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    folder = store.with_name("safetensors")
    folder.mkdir()
    for row, latent in enumerate(latents):
        save_file({"latents": latent}, folder / f"{row}.safetensors")

    def one(row: int) -> Array:
        with safe_open(folder / f"{row}.safetensors", "numpy") as file:
            return file.get_tensor("latents")

    return {"safetensors, a file a row": lambda rows: np.stack([one(row) for row in rows])}


def datasets(store: Path, latents: Array) -> dict[str, Read]:
    import datasets
    import pyarrow as pa

    folder = str(store.with_name("datasets"))
    column = pa.array([latent.tobytes() for latent in latents], pa.large_binary())
    datasets.disable_progress_bars()
    datasets.Dataset(pa.table({"latents": column})).save_to_disk(folder)
    loaded = datasets.load_from_disk(folder)
    shape = latents.shape[1:]

    def read(rows: Array) -> Array:
        return np.stack([np.frombuffer(one, np.float16).reshape(shape) for one in loaded[rows]["latents"]])

    return {"HF datasets": read}


def streaming(store: Path, latents: Array) -> dict[str, Read]:
    from streaming import LocalDataset, MDSWriter

    folder = str(store.with_name("streaming"))
    shape = ",".join(str(n) for n in latents.shape[1:])
    with MDSWriter(out=folder, columns={"latents": f"ndarray:float16:{shape}"}) as writer:
        for latent in latents:
            writer.write({"latents": latent})
    data = LocalDataset(folder)
    return {"MosaicML Streaming": lambda rows: np.stack([data[int(row)]["latents"] for row in rows])}


def annbatch(store: Path, latents: Array) -> dict[str, Read]:
    """annbatch over the very shards that usjepa wrote, by the pipeline of zarrs, as its documentation asks.

    It is a loader, not a reader: a sampler says which rows to fetch at once and how to cut them into batches. Left to
    itself it fetches stretches of neighbouring rows (512 by default, 32 stretches at once) and shuffles within what it
    holds, which is fast where rows were shuffled before they were written and is no uniform draw. Here a sampler of
    ours asks for the very rows of the batch, a fetch a batch, as every contender reads them; what is fetched is copied
    once more into the batch, as the loader does with all that it yields.
    """
    import zarr
    import zarrs  # noqa: F401 - registers the pipeline
    from annbatch import Loader
    from annbatch.abc import Sampler

    class Given(Sampler):  # type: ignore[misc]  # annbatch is not installed where types are checked
        """Yields one batch of given rows."""

        rows: Array
        batch_size, shuffle = None, False

        def n_batches(self, n_obs: int) -> int:
            return 1

        def validate(self, n_obs: int) -> None:
            pass

        def _sample(self, n_obs: int) -> Any:
            yield {"requests": self.rows, "splits": [np.arange(len(self.rows))]}

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(store / "latents/vitb", mode="r")
    sampler = Given()
    loader = Loader(batch_sampler=sampler).add_dataset(array)

    def read(rows: Array) -> Array:
        sampler.rows = rows
        (batch,) = loader
        return np.asarray(batch["X"])

    return {"annbatch, given rows": read}


PEERS = (zarr_python, zarrs, tensorstore, h5py, safetensors, datasets, streaming, annbatch)


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
