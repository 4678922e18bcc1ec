"""Tables that stay packed give the rows and sources of those that are read whole, batch by batch, in any order."""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.files.damage import flip
from tests.support.stores import layers, single_frames, tables, write_store
from usjepa.cache.decoding import segment_rows
from usjepa.cache.decoding.segment_rows import SegmentRows
from usjepa.cache.errors import DamageError
from usjepa.cache.frames.rows import RowBlock
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.columns import batches
from usjepa.cache.store.origins.segment_tables import read_tables
from usjepa.cache.store.origins.sources import Source, Sources
from usjepa.cache.store.tables import RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

IMAGES, VIEWS, PER_SHARD = 500, 4, 32


@pytest.fixture
def writer(tmp_path: Path) -> StoreWriter:
    """Return a store of tables alone."""
    made = StoreWriter(LocalStorage(tmp_path / "s"))
    made.create_or_open(PER_SHARD)
    names = [f"{i:04d}" for i in range(IMAGES)]
    described: dict[str, Any] = {"path": [f"a/{name}.png" for name in names], "content_hash": [n * 8 for n in names]}
    described |= {"dataset": ["a"] * IMAGES, "group": names, "label": [""] * IMAGES, "split": [""] * IMAGES}
    made.add_segment(*single_frames(VIEWS, **described), IMAGES * VIEWS)
    made.add_segment(*tables(7, "b"), 7)
    return made


@pytest.mark.parametrize("order", ["forwards", "backwards", "by chance"])
def test_any_rows_are_those_of_the_whole_tables_in_whatever_order_shards_are_asked_for(
    writer: StoreWriter, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(segment_rows, "_BATCH", 37)
    shards = list(range(writer.state.shard_count))
    if order != "forwards":
        shards = shards[::-1] if order == "backwards" else np.random.default_rng(0).permutation(shards).tolist()
    packed = {s.number: SegmentRows(writer.storage, s) for s in writer.state.segments}
    whole = {s.number: read_tables(writer.storage, s) for s in writer.state.segments}
    for shard in shards:
        segment, numbers = writer.state.segment_of_shard(shard), writer.state.rows_of_shard(shard)
        assert packed[segment.number].block(numbers) == RowBlock.of(*whole[segment.number], segment.first_row, numbers)
    assert packed[1].readers == {"images"}


def test_rows_that_are_cut_at_once_are_unpacked_once(writer: StoreWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_rows, "_BATCH", 64)
    begun: list[str] = []

    def counted(kind: type[Any], *given: Any, **more: Any) -> Any:
        begun.append(kind.__name__)
        return batches(kind, *given, **more)

    monkeypatch.setattr(segment_rows, "batches", counted)
    rows = SegmentRows(writer.storage, writer.state.segments[0])
    for shard in range(0, 60, 2):
        for number in (shard + 1, shard):  # threads overtake each other
            rows.block(range(number * PER_SHARD, (number + 1) * PER_SHARD))
    assert sorted(begun) == ["RowTable", "SourceTable", "SourceTable"]  # once for the names of readers


def test_a_table_that_is_not_the_one_that_was_written_is_refused(writer: StoreWriter) -> None:
    segment = writer.state.segments[0]
    assert isinstance(writer.storage, LocalStorage)
    flip(writer.storage.path(f"{segment.folder}/rows.parquet"), 100)
    with pytest.raises(DamageError, match=r"rows\.parquet: not the table that was written"):
        SegmentRows(writer.storage, segment)


def test_sources_of_a_large_store_are_the_same_by_number_by_column_and_one_after_the_other(
    writer: StoreWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [field.name for field in dataclasses.fields(Source)]
    whole: list[Source] = []
    for segment in writer.state.segments:
        described, _ = read_tables(writer.storage, segment)
        columns: list[NDArray[Any]] = [getattr(described, name) for name in names]
        whole += [Source(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
    monkeypatch.setattr("usjepa.cache.store.origins.sources.BATCH", 100)
    sources = Sources(writer.storage, writer.state.segments)
    assert len(sources) == IMAGES + 7
    assert sources == whole
    for number in (0, 499, 500, 506, -1, 3):
        assert sources[number] == whole[number]
    assert sources[498:502] == tuple(whole[498:502])
    with pytest.raises(IndexError):
        sources[IMAGES + 7]
    paths = [path for (batch,) in sources.columns("path") for path in batch]
    assert paths == [source.path for source in whole]


def test_a_table_of_several_segments_with_holes_is_that_of_the_rows_that_exist(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10, holes=((3, "torn"),), seal=False)
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.attach()
    writer.add_segment(*tables(6, "b"), 6)
    for layer in layers().values():
        for shard in (3, 4):
            rows = writer.state.rows_of_shard(shard)
            writer.write_shard(layer, shard, np.zeros((len(rows), *layer.shape), layer.dtype), [], {})
    writer.seal()
    store = open_store(tmp_path / "s")
    assert store.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, *range(12, 18)]
    assert store.row_numbers(np.array([3, 9, 14])).tolist() == [4, 12, 17]
    assert store.table.source.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, *range(10, 16)]
    assert store.table.frame.tolist() == store.table.view.tolist() == [0] * 15
    assert store.origin_of(4).source.path == "a/0004.png"
    assert store.origin_of(17).source.path == "b/0005.png"


@pytest.mark.parametrize("most_text", [0, 1 << 30], ids=["text as it is", "text in dictionaries"])
def test_columns_read_in_batches_are_those_read_whole(monkeypatch: pytest.MonkeyPatch, most_text: int) -> None:
    monkeypatch.setattr("usjepa.cache.store.columns._LITTLE_TEXT_NBYTES", most_text)
    described, rows = tables(300)
    for kind, data in ((SourceTable, described), (RowTable, rows)):
        names = list(kind.__dataclass_fields__)
        parts = list(batches(kind, io.BytesIO(data), names, lines=64))
        assert [len(part[0]) for part in parts] == [64, 64, 64, 64, 44]
        whole = kind.from_parquet(data)
        for place, name in enumerate(names):
            column = np.concatenate([part[place] for part in parts])
            np.testing.assert_array_equal(column, getattr(whole, name))
