"""Write stores that are read together: parts of one store, and small ones whose sources the test names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xxhash

from tests.support.stores import arrays, layers, single_frames
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.copying.selection import Selection
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.store.layers import Layer


def cut(store: Path, folder: Path, *stops: int) -> list[Path]:
    """Copy the rows of a store into several, cut before the rows `stops`; the last of them is the number of rows."""
    made = []
    for number, (start, stop) in enumerate(zip((0, *stops), stops, strict=False)):
        made.append(folder / f"part-{number}.zarr")
        copy_store(str(store), str(made[-1]), Selection(rows=((start, stop),)))
    return made


def hashed(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def write_sources(
    root: Path,
    paths: Sequence[str],
    contents: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    *,
    views: int = 1,
    described: Mapping[str, Layer] | None = None,
    dataset: str = "toy",
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Write a sealed store of single-frame sources; return what every row of every layer holds.

    Args:
        root: of the store.
        paths: of the sources.
        contents: texts that stand for the content of each; none: its dataset and path.
        groups: of the sources; none: each is its own.
        splits: of the sources; none: no split.
        views: of each frame.
        described: the layers; none: those of `tests.support.stores`.
        dataset: of all sources.
        seed: of the values.
    """
    described = described or layers()
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(next(iter(described.values())).rows_per_shard)
    told = single_frames(
        views,
        path=paths,
        dataset=[dataset] * len(paths),
        group=groups or paths,
        label=["cyst" if i % 2 else "none" for i in range(len(paths))],
        split=splits or [""] * len(paths),
        content_hash=[hashed(text) for text in contents or [f"{dataset}/{path}" for path in paths]],
    )
    rows = len(paths) * views
    writer.add_segment(*told, rows)
    held = {}
    for name, layer in described.items():
        writer.add_layer(layer)
        held[name] = arrays(layer, rows, seed)
        for shard in range(writer.state.shard_count):
            numbers = writer.state.rows_of_shard(shard)
            writer.write_shard(layer, shard, held[name][numbers.start : numbers.stop], [], {"torch": "x"})
    writer.seal()
    return held


def names(letter: str, count: int) -> list[str]:
    return [f"{letter}{i:02d}.png" for i in range(count)]
