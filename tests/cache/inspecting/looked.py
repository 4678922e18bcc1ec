"""A store to look at: rows that the test names, with planted doubts, duplicates and outliers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.support.labelled import File
from tests.support.stores import single_frames
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SIZE, EDGE, DIM, ROWS_PER_SHARD = 32, 4, 8, 16
TOKENS = EDGE * EDGE


def clinic(count: int = 24, each: int = 2) -> list[File]:
    """Return `each` files for every patient, of two datasets, two labels and two splits."""
    return [
        File(
            "cyst" if i % each else "none",
            f"patient-{i // each}",
            "test" if i // each % 3 == 0 else "train",
            "liver" if i // each % 2 else "breast",
        )
        for i in range(count)
    ]


def speckle(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return frames [n, 1, S, S] that look like no other."""
    coarse = np.random.default_rng(seed).integers(20, 230, (count, 1, SIZE // 2, SIZE // 2))
    return coarse.repeat(2, axis=2).repeat(2, axis=3).astype(np.uint8)


def write_looked(
    root: Path,
    files: Sequence[File],
    *,
    views: int = 1,
    pixels: NDArray[np.uint8] | None = None,
    latents: Mapping[str, NDArray[np.float32]] | None = None,
    regions: NDArray[np.uint8] | None = None,
    paths: Sequence[str] = (),
    doubtful: Mapping[int, str] | None = None,
    blank: Mapping[int, str] | None = None,
    holes: Sequence[int] = (),
    identity: Mapping[str, object] | None = None,
    layers: Sequence[str] = ("pixels", "regions", "latents"),
    seal: bool = True,
) -> Store:
    """Write a store of single-frame sources and open it; by default of random latents of one teacher.

    Args:
        root: its folder.
        files: a source each.
        views: rows of each source.
        pixels: [rows, C, S, S].
        latents: teacher -> [rows, T, D].
        regions: [rows, S * S / 32]; none: all of each frame.
        paths: of the sources.
        doubtful: row -> why, for the record. So is `blank`.
        blank: as `doubtful`.
        holes: rows without data.
        identity: of the pixels.
        layers: kinds that it has.
        seal: whether it is finished.
    """
    count = len(files) * views
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(ROWS_PER_SHARD)
    writer.add_segment(
        *single_frames(
            views,
            SIZE,
            path=list(paths) or [f"{file.dataset}/{i:04d}.png" for i, file in enumerate(files)],
            dataset=[file.dataset for file in files],
            group=[file.group for file in files],
            label=[file.label for file in files],
            split=[file.split for file in files],
            content_hash=[file.content or f"{i:032x}" for i, file in enumerate(files)],
        ),
        count,
    )
    pixels = speckle(count) if pixels is None else pixels
    content: dict[str, tuple[dict[str, object], NDArray[np.generic]]] = {"pixels": (dict(identity or {"r": 1}), pixels)}
    if "regions" in layers:
        whole = np.full((count, SIZE * SIZE // 32), 255, np.uint8)
        content["regions"] = ({"region": 1}, whole if regions is None else regions)
    if "latents" in layers:
        given = latents or {"toy": np.random.default_rng(1).standard_normal((count, TOKENS, DIM)).astype("f4")}
        content |= {f"latents/{name}": ({"weights": name}, values) for name, values in given.items()}
    told = {"doubtful": doubtful or {}, "blank": blank or {}}
    for name, (said, values) in content.items():
        layer = Layer(name, values.dtype.name, values.shape[1:], ROWS_PER_SHARD, said)
        writer.add_layer(layer)
        for shard in range(writer.state.shard_count):
            numbers = writer.state.rows_of_shard(shard)
            notes = {
                kind: [(row, f"a/b.png, frame 0, view 0: {why}") for row, why in rows.items() if row in numbers]
                for kind, rows in told.items()
                if name == "pixels"
            }
            gone = [(row, "gone") for row in holes if row in numbers]
            writer.write_shard(layer, shard, values[numbers.start : numbers.stop], gone, {"torch": "x"}, **notes)
    if seal:
        writer.seal()
    return open_store(root, allow_partial=not seal)
