"""The committed store of format 2.0, of latents on axes and in int4, is read bit for bit by every later version.

`python -m tests.cache.store.test_golden_coded` wrote it, once; see `test_golden.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cache.store.test_golden import content, make
from usjepa.cache.coding.coding import Coding
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.layers import Layer
from usjepa.cache.upkeep.verify import verify

GOLDEN = Path(__file__).parents[2] / "golden" / "format-2.0.zarr"
DOCS = Path(__file__).parents[3] / "docs"
ROWS_PER_SHARD, SIZE, TOKENS, DIM = 4, 16, 4, 12
ROWS = np.array([0, 1, 2, 4, 5, 8, 9, 10])


def _coding(count: int, packed: bool) -> Coding:
    """Axes that are unit vectors in another order, exact in float16; an offset exact in float32."""
    offset = ((np.arange(DIM) - 5) / 8).astype(np.float32)
    axes = np.eye(DIM)[::-1][:count] if count else None
    made = Coding.of(offset, None if axes is None else axes.astype(np.float16), packed)
    return made.with_sample(8, 0.875 if count else 1.0, 0.125)


def _scale(width: int) -> tuple[float, ...]:
    return tuple(0.25 * (i + 1) * (-1) ** (i // 3) for i in range(width))


def _layers(name: str, dtype: str, coding: Coding, scaled: bool, weights: str) -> list[Layer]:
    identity = {"teacher": {"weights": weights * 16}, "precision": name}
    scale = _scale(coding.coded_width) if scaled else ()
    shape = (TOKENS, coding.stored_width)
    latents = Layer(f"latents/{name}", dtype, shape, ROWS_PER_SHARD, identity, scale, coding)
    scales = Layer(f"scales/{name}", "float32", (TOKENS,), ROWS_PER_SHARD, identity)
    return [scales, latents] if scaled else [latents]


LAYERS = (
    Layer("pixels", "uint8", (1, SIZE, SIZE), ROWS_PER_SHARD, {"image_size": SIZE, "seed": 7}),
    Layer("regions", "uint8", (SIZE * SIZE // 32,), ROWS_PER_SHARD, {"image_size": SIZE, "seed": 7}),
    *_layers("packed", "uint8", _coding(0, True), True, "ab"),
    *_layers("packed-axes7", "uint8", _coding(7, True), True, "cd"),
    *_layers("bytes-axes5", "int8", _coding(5, False), True, "ef"),
    *_layers("half-axes5", "float16", _coding(5, False), False, "01"),
)
LATENTS = {str(layer.teacher): layer for layer in LAYERS if layer.kind == "latents"}


def test_the_golden_store_is_read_bit_for_bit() -> None:
    store = open_store(GOLDEN)
    np.testing.assert_array_equal(store.rows, ROWS)
    for layer in LAYERS:
        assert store.layers[layer.name] == layer
        got = store.read(ROWS, layers=[layer.name]).arrays[layer.name]
        np.testing.assert_array_equal(got, np.stack([content(layer, int(row)) for row in ROWS]))
    assert verify(str(GOLDEN)).damages == []


@pytest.mark.parametrize("teacher", LATENTS)
def test_its_latents_read_as_the_lines_of_the_format_page_say(teacher: str) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "store-format.md").read_text(), re.DOTALL):
        exec(block, names)
    read = open_store(GOLDEN).read([9], teacher=teacher)
    latents = read.targets()[0].numpy()
    assert latents.shape == (TOKENS, DIM)
    np.testing.assert_allclose(latents, names["decode_coded"](GOLDEN, teacher, 9), rtol=1e-5, atol=1e-3)


def test_axes_and_offset_of_it_are_what_plain_numpy_makes_of_them() -> None:
    half = content(LATENTS["half-axes5"], 9).astype(np.float32)
    expected = np.zeros((TOKENS, DIM), np.float32)
    expected[:, :-6:-1] = half
    expected += (np.arange(DIM) - 5) / np.float32(8)
    np.testing.assert_array_equal(open_store(GOLDEN).read([9], teacher="half-axes5").targets()[0].numpy(), expected)


def test_this_version_writes_the_golden_bytes(tmp_path: Path) -> None:
    make(tmp_path / "again.zarr", LAYERS)
    for path in sorted(p for p in GOLDEN.rglob("*") if p.is_file()):
        again = tmp_path / "again.zarr" / path.relative_to(GOLDEN)
        # Parquet names the version of its writer, and the manifests hash the Parquet files.
        if path.suffix != ".parquet" and "manifest" not in str(path) and path.name != "segment.json":
            assert again.read_bytes() == path.read_bytes(), path.name


if __name__ == "__main__":
    make(GOLDEN, LAYERS)
