"""The committed store of format 1.0 is read bit for bit by this and every later version.

`python -m tests.cache.store.test_golden` wrote it, once. It is never written again: a change that makes this test fail
breaks every store in the world, and needs a new major format instead.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.processes.commands import run_python
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.tables import RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

GOLDEN = Path(__file__).parents[2] / "golden" / "format-1.0.zarr"
ROWS_PER_SHARD = 4
SEGMENTS = (6, 3)
ROWS = np.array([0, 1, 2, 4, 5, 8, 9, 10])
HOLES = ((3, "clip.mp4, frame 3: could not be decoded"),)
SIZE, TOKENS, DIM = 16, 4, 12

LAYERS = (
    Layer("pixels", "uint8", (1, SIZE, SIZE), ROWS_PER_SHARD, {"image_size": SIZE, "seed": 7}),
    Layer("regions", "uint8", (SIZE * SIZE // 32,), ROWS_PER_SHARD, {"image_size": SIZE, "seed": 7}),
    Layer("latents/half", "float16", (TOKENS, DIM), ROWS_PER_SHARD, {"teacher": {"weights": "ab" * 16}, "µ": 1e-4}),
    Layer("latents/full", "float32", (TOKENS, DIM), ROWS_PER_SHARD, {"teacher": {"weights": "cd" * 16}}),
    Layer("scales/small", "float32", (TOKENS,), ROWS_PER_SHARD, {"teacher": {"weights": "ef" * 16}}),
    Layer(
        "latents/small", "int8", (TOKENS, DIM), ROWS_PER_SHARD, {"teacher": {"weights": "ef" * 16}},
        tuple(0.25 * (i + 1) for i in range(DIM)),
    ),
)  # fmt: skip


def content(layer: Layer, row: int) -> NDArray[Any]:
    """Return what a row of a layer holds: a formula, not a generator whose stream a library may change."""
    i = np.arange(int(np.prod(layer.shape))).reshape(layer.shape)
    if layer.dtype == "uint8":
        return ((i * 31 + row * 57) % 256).astype(np.uint8)
    if layer.dtype == "int8":
        return ((i * 29 + row * 41) % 255 - 127).astype(np.int8)
    return ((((i * 37 + row * 11) % 1000) - 500) / 64).astype(layer.dtype)


def _tables(number: int, rows: int) -> tuple[bytes, bytes]:
    strings = {"path": f"part-{number}/clip.mp4", "dataset": "écho", "group": f"patient-{number}", "label": "cyst"}
    strings |= {"split": "train", "reader": "video", "content_hash": f"{number:032x}", "error": ""}
    numbers = {"frames": rows, "height": 40, "width": 48}
    columns: dict[str, Any] = {key: np.array([value], dtype=object) for key, value in strings.items()}
    columns |= {key: np.array([value], dtype=np.int32) for key, value in numbers.items()}
    sources = SourceTable(**columns)
    frame = np.arange(rows, dtype=np.int32)
    zero, flag = np.zeros(rows, np.int32), frame % 2 == 1
    box = RowTable(zero, frame, zero, zero + 1, zero + 2, zero + 30, zero + 32, flag, ~flag)
    return sources.to_parquet(), box.to_parquet()


def make(root: Path, layers: Sequence[Layer] = LAYERS) -> None:
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(ROWS_PER_SHARD)
    for number, rows in enumerate(SEGMENTS, start=1):
        writer.add_segment(*_tables(number, rows), rows)
        for layer in layers:
            writer.add_layer(layer)
            for shard in writer.state.segments[-1].shards(ROWS_PER_SHARD):
                numbers = writer.state.rows_of_shard(shard)
                rows_of_layer = np.stack([content(layer, row) for row in numbers])
                holes = [hole for hole in HOLES if hole[0] in numbers]
                writer.write_shard(layer, shard, rows_of_layer, holes, {"torch": "2.0", "device": "cpu"})
        writer.seal()


def test_the_golden_store_is_read_bit_for_bit() -> None:
    store = open_store(GOLDEN)
    np.testing.assert_array_equal(store.rows, ROWS)
    assert store.generation == 2
    for layer in LAYERS:
        assert store.layers[layer.name] == layer
        got = store.read(ROWS, layers=[layer.name]).arrays[layer.name]
        np.testing.assert_array_equal(got, np.stack([content(layer, int(row)) for row in ROWS]))


def test_the_golden_tables_are_read_as_written() -> None:
    table = open_store(GOLDEN).table
    assert table.frame.tolist() == [0, 1, 2, 4, 5, 0, 1, 2]
    assert table.dataset.tolist() == ["écho"] * 8
    assert table.group.tolist() == ["patient-1"] * 5 + ["patient-2"] * 3
    assert table.sources[1].path == "part-2/clip.mp4"


def test_the_golden_store_verifies_and_an_older_generation_opens() -> None:
    assert verify(str(GOLDEN)).damages == []
    assert open_store(GOLDEN, generation=1).rows.tolist() == [0, 1, 2, 4, 5]


def test_int8_latents_of_the_golden_store_scale_back() -> None:
    batch = open_store(GOLDEN).read([9], teacher="small")
    small, scales = LAYERS[5], LAYERS[4]
    expected = (
        content(small, 9).astype(np.float32) * content(scales, 9)[:, None] * np.array(small.channel_scale, np.float32)
    )
    np.testing.assert_array_equal(batch.targets()[0].numpy(), expected)


def test_this_version_writes_the_golden_bytes(tmp_path: Path) -> None:
    make(tmp_path / "again.zarr")
    for path in sorted(p for p in GOLDEN.rglob("*") if p.is_file()):
        again = tmp_path / "again.zarr" / path.relative_to(GOLDEN)
        # Parquet names the version of its writer, and the manifests hash the Parquet files.
        if path.suffix != ".parquet" and "manifest" not in str(path) and path.name != "segment.json":
            assert again.read_bytes() == path.read_bytes(), path.name


def test_the_reader_in_the_format_document_reads_the_golden_store_with_numpy_alone() -> None:
    page = (Path(__file__).parents[3] / "docs" / "store-format.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    rows = {layer.name: content(layer, 9).astype(float).tolist() for layer in LAYERS}
    program = (
        f"{code}\nimport sys\nexpected = json.loads(sys.stdin.read())\n"
        f"for layer, row in expected.items():\n"
        f"    np.testing.assert_array_equal(read_row({str(GOLDEN)!r}, layer, 9), np.array(row))\n"
        "assert not any(name.split('.')[0] in ('zarr', 'usjepa') for name in sys.modules)\n"
    )
    run_python("-c", program, stdin=json.dumps(rows))


@pytest.mark.parametrize("change", ["major", "file"])
def test_a_copy_with_a_newer_format_or_a_missing_file_is_refused(tmp_path: Path, change: str) -> None:
    from usjepa.cache.errors import DamageError, FormatError

    copy = tmp_path / "copy.zarr"
    shutil.copytree(GOLDEN, copy)
    if change == "file":
        (copy / "latents/half/c.2.0.0").unlink()
        with pytest.raises(DamageError, match="missing"):
            open_store(copy).read([9], teacher="half")
        return
    (copy / "zarr.json").write_text((copy / "zarr.json").read_text().replace('"major": 1', '"major": 3'))
    with pytest.raises(FormatError, match=r"format 3\.0 is newer than format 2"):
        open_store(copy)


if __name__ == "__main__":
    make(GOLDEN)
