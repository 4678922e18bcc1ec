"""Small labelled stores for the evaluation's tests, written by the real writer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.tables import RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SIZE, TOKENS, DIM, ROWS_PER_SHARD = 32, 4, 6, 16


@dataclass(frozen=True)
class File:
    """A single-frame source."""

    label: str
    group: str = ""
    split: str = ""
    dataset: str = "toy"
    content: str = ""


def patients(count: int, classes: Sequence[str], each: int = 1, dataset: str = "toy") -> list[File]:
    """Return `each` frames of every class for every patient."""
    return [
        File(label, f"patient-{patient}", dataset=dataset)
        for patient in range(count)
        for label in classes
        for _ in range(each)
    ]


def pixels_of(files: Sequence[File], size: int = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    """Return frames [n, 1, S, S] whose brightness pattern tells the class, noise on top."""
    rng = np.random.default_rng(seed)
    names = sorted({file.label for file in files})
    frames = rng.integers(0, 60, (len(files), 1, size, size))
    for i, file in enumerate(files):
        start = names.index(file.label) * size // max(1, len(names))
        frames[i, :, start : start + size // max(1, len(names))] += 120
    return frames.astype(np.uint8)


def write_labelled(
    root: Path,
    files: Sequence[File],
    views: int = 1,
    latents: bool = False,
    size: int = SIZE,
    seed: int = 0,
    pixels: NDArray[np.uint8] | None = None,
) -> Store:
    """Write a store of single-frame sources with `views` views of each, and open it."""
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(ROWS_PER_SHARD)
    count = len(files) * views
    writer.add_segment(*_tables(files, views, size), count)
    pixels = np.repeat(pixels_of(files, size, seed) if pixels is None else pixels, views, axis=0)
    content: dict[str, NDArray[np.generic]] = {
        "pixels": pixels,
        "regions": np.full((count, size * size // 32), 255, "u1"),
    }
    made = [
        Layer("pixels", "uint8", (1, size, size), ROWS_PER_SHARD, {"recipe": "test"}),
        Layer("regions", "uint8", (size * size // 32,), ROWS_PER_SHARD, {"region": 1}),
    ]
    if latents:
        made.append(Layer("latents/toy", "float16", (TOKENS, DIM), ROWS_PER_SHARD, {"teacher": {"weights": "0" * 32}}))
        content["latents/toy"] = np.random.default_rng(1).standard_normal((count, TOKENS, DIM)).astype("f2")
    for layer in made:
        writer.add_layer(layer)
        for shard in range(writer.state.shard_count):
            numbers = writer.state.rows_of_shard(shard)
            writer.write_shard(layer, shard, content[layer.name][numbers.start : numbers.stop], [], {"torch": "x"})
    writer.seal()
    return open_store(root)


def _tables(files: Sequence[File], views: int, size: int) -> tuple[bytes, bytes]:
    def strings(values: Sequence[str]) -> NDArray[np.object_]:
        return np.array(list(values), dtype=object)

    n, rows = len(files), len(files) * views
    sources = SourceTable(
        path=strings([f"{file.dataset}/{i:04d}.png" for i, file in enumerate(files)]),
        dataset=strings([file.dataset for file in files]),
        group=strings([file.group for file in files]),
        label=strings([file.label for file in files]),
        split=strings([file.split for file in files]),
        reader=strings(["images"] * n),
        content_hash=strings([file.content or f"{i:032x}" for i, file in enumerate(files)]),
        frames=np.ones(n, np.int32),
        height=np.full(n, size, np.int32),
        width=np.full(n, size, np.int32),
        error=strings([""] * n),
    )
    zeros, full, flags = np.zeros(rows, np.int32), np.full(rows, size, np.int32), np.zeros(rows, bool)
    return sources.to_parquet(), RowTable(
        source=np.repeat(np.arange(n, dtype=np.int32), views),
        frame=zeros,
        view=np.tile(np.arange(views, dtype=np.int32), n),
        top=zeros,
        left=zeros,
        height=full,
        width=full,
        flip_horizontal=flags,
        flip_vertical=flags,
    ).to_parquet()
