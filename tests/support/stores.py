"""Small stores for tests, written by the real writer from arrays the test knows."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.tables import RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.building.request import BuildRequest
    from usjepa.cache.coding.form import Form
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.store.generations import Manifest

ROWS_PER_SHARD = 4
SIZE, TOKENS, DIM = 16, 4, 8


def layers(rows_per_shard: int = ROWS_PER_SHARD, precision: str = "float16") -> dict[str, Layer]:
    made = [
        Layer("pixels", "uint8", (1, SIZE, SIZE), rows_per_shard, {"recipe": "test"}),
        Layer("regions", "uint8", (SIZE * SIZE // 32,), rows_per_shard, {"region": 1}),
        Layer("latents/toy", precision, (TOKENS, DIM), rows_per_shard, {"weights": "0" * 32}),
    ]
    if precision == "int8":
        made[2] = Layer(
            "latents/toy",
            "int8",
            (TOKENS, DIM),
            rows_per_shard,
            {"weights": "0" * 32},
            tuple(0.5 + i for i in range(DIM)),
        )
        made.append(Layer("scales/toy", "float32", (TOKENS,), rows_per_shard, {"of": "latents/toy"}))
    return {layer.name: layer for layer in made}


def tables(rows: int, tag: str = "a") -> tuple[bytes, bytes]:
    """Return the Parquet bytes of a segment of `rows` single-frame sources."""
    return single_frames(
        path=[f"{tag}/{i:04d}.png" for i in range(rows)],
        dataset=[tag] * rows,
        group=[f"group-{i // 2}" for i in range(rows)],
        label=["cyst" if i % 2 else "none" for i in range(rows)],
        split=["test" if i % 5 == 0 else "train" for i in range(rows)],
        content_hash=[f"{i:032x}" for i in range(rows)],
    )


def single_frames(views: int = 1, size: int = 32, **strings: Sequence[str]) -> tuple[bytes, bytes]:
    """Return the Parquet bytes of a segment of single-frame images with whole frames as views.

    Args:
        views: of each frame.
        size: edge of the frames, in pixels.
        strings: the columns path, dataset, group, label, split and content_hash.
    """
    columns = {name: np.array(list(values), dtype=object) for name, values in strings.items()}
    n, rows = len(columns["path"]), len(columns["path"]) * views
    sources = SourceTable(
        reader=np.array(["images"] * n, dtype=object),
        frames=np.ones(n, np.int32),
        height=np.full(n, size, np.int32),
        width=np.full(n, size, np.int32),
        error=np.array([""] * n, dtype=object),
        **columns,
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


def arrays(layer: Layer, rows: int, seed: int = 0) -> NDArray[Any]:
    """Return [rows, *layer.shape] of random values of the layer's dtype."""
    rng = np.random.default_rng([seed, len(layer.name), ord(layer.name[0])])
    if layer.dtype.startswith("float"):
        return rng.standard_normal((rows, *layer.shape)).astype(layer.dtype)
    low, high = (0, 256) if layer.dtype == "uint8" else (-127, 128)
    return rng.integers(low, high, (rows, *layer.shape)).astype(layer.dtype)


def write_store(
    root: Path,
    rows: int = 10,
    precision: str = "float16",
    seed: int = 0,
    seal: bool = True,
    rows_per_shard: int = ROWS_PER_SHARD,
    holes: tuple[tuple[int, str], ...] = (),
) -> dict[str, NDArray[Any]]:
    """Write a one-segment store and return what every row of every layer holds."""
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(rows_per_shard)
    if not writer.state.segments:
        writer.add_segment(*tables(rows), rows)
    content = {}
    for name, layer in layers(rows_per_shard, precision).items():
        writer.add_layer(layer)
        content[name] = arrays(layer, rows, seed)
        for shard in range(writer.state.shard_count):
            numbers = writer.state.rows_of_shard(shard)
            mine = [hole for hole in holes if hole[0] in numbers]
            writer.write_shard(layer, shard, content[name][numbers.start : numbers.stop], mine, {"torch": "x"})
    if seal:
        writer.seal()
    return content


def write_coded_store(root: Path, rows: int, form: Form, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Write a store of latents in a form, made from ones that go together, and return what their layers hold."""
    from usjepa.cache.store.calibration import with_calibration
    from usjepa.cache.store.precision import quantise
    from usjepa.cache.teacher.layers import layers_of

    rng = np.random.default_rng(seed)
    latents = (rng.standard_normal((rows, 9, 24)) @ rng.standard_normal((24, 24)) + 5).astype(np.float32)
    identity = {"teacher": {"weights": "0" * 32}, **form.identity()}
    coded = with_calibration(layers_of("toy", (9, 24), form, ROWS_PER_SHARD, identity), latents, np.arange(rows))
    stored = quantise(latents, coded[-1], 0)
    content = {layer.name: array for layer, array in zip(reversed(coded), stored, strict=False) if array is not None}
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(ROWS_PER_SHARD)
    writer.add_segment(*tables(rows, f"tag-{seed}"), rows)
    plain = [layer for name, layer in layers().items() if name in ("pixels", "regions")]
    for layer in (*plain, *coded):
        values = content[layer.name] if layer.name in content else arrays(layer, rows, seed)
        writer.add_layer(layer)
        for shard in range(writer.state.shard_count):
            numbers = writer.state.rows_of_shard(shard)
            writer.write_shard(layer, shard, values[numbers.start : numbers.stop], [], {"torch": "x"})
    writer.seal()
    return content


def build_all(target: str, recipe: Recipe, request: BuildRequest | None = None) -> Manifest:
    """Build a store to its end and return its manifest."""
    from usjepa.cache.building.build import build

    manifest = build(target, recipe, request)
    assert manifest is not None, f"{target} was not sealed"
    return manifest


def open_below(root: Path) -> list[str]:
    """Return what this process has open below a folder; its other descriptors come and go."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile, as that of the listing is
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(str(root))]
