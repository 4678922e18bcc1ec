"""Small labelled stores, written by the real writer, and folders of labelled pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tests.support.stores import single_frames
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
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
    segment = single_frames(
        views,
        size,
        path=[f"{file.dataset}/{i:04d}.png" for i, file in enumerate(files)],
        dataset=[file.dataset for file in files],
        group=[file.group for file in files],
        label=[file.label for file in files],
        split=[file.split for file in files],
        content_hash=[file.content or f"{i:032x}" for i, file in enumerate(files)],
    )
    writer.add_segment(*segment, count)
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


def write_pictures(folder: Path, files: Sequence[File], seed: int = 0) -> Path:
    """Write pictures whose pattern tells the class, and a manifest that tells label, group, split and dataset."""
    folder.mkdir(parents=True)
    lines = ["path,dataset,label,group,split"]
    for i, (file, frame) in enumerate(zip(files, pixels_of(files, 64, seed), strict=True)):
        cv2.imwrite(str(folder / f"{i:04d}.png"), frame[0])
        lines.append(f"{i:04d}.png,{file.dataset},{file.label},{file.group},{file.split}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder
