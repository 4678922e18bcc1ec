"""What growth knows of a store's sources is what loops over its tables find."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xxhash

from tests.support.stores import single_frames
from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.places import spill
from usjepa.cache.places.digests import digests
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning import growth
from usjepa.cache.scanning.growth import grow
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.known_sources import IS_DICOM, IS_PARTIAL, IS_TEST, KnownSources
from usjepa.cache.scanning.scanned import source_names
from usjepa.cache.scanning.splits import group_hashes, in_test
from usjepa.cache.sources.base import Entry, FileFacts, Listing, packed_entries
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.patients import group_key
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.tables import WITHDRAWN, RowTable, SourceTable
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path


def table(seed: int, lines: int) -> SourceTable:
    """Return a table in which datasets, groups and contents come again, and some sources can't be read."""
    rng = np.random.default_rng(seed)

    def drawn(*texts: str) -> list[str]:
        return [texts[i] for i in rng.integers(0, len(texts), lines)]

    error = drawn("", "", "", "no image", WITHDRAWN)
    numbers = {name: rng.integers(1, 4, lines).astype(np.int32) for name in ("frames", "height", "width")}
    columns = {
        "path": [f"{seed}/{i}.png" for i in range(lines)],
        "dataset": drawn("a", "b"),
        "group": drawn("g", "h", "patient:x"),
        "label": drawn(""),
        "split": drawn("", "test", "Testing", "train"),
        "reader": drawn("images:2", "images", "dicom"),
        "content_hash": [xxhash.xxh3_128_hexdigest(f"{i}".encode()) for i in rng.integers(0, lines, lines)],
        "error": error,
    }
    spacing = np.where(rng.random(lines) < 0.5, np.nan, 0.5) if seed % 2 else np.empty(0)
    texts = {name: np.array(values, object) for name, values in columns.items()}
    return SourceTable(**texts, **numbers, spacing_down=spacing, spacing_across=spacing)  # type: ignore[arg-type]


def stored(root: Path, tables: list[SourceTable]) -> StoreWriter:
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(4)
    for one in tables:
        zero = np.zeros(4, np.int32)
        rows = RowTable(zero, zero, np.arange(4, dtype=np.int32), zero, zero, zero, zero, zero > 0, zero > 0)
        writer.add_segment(one.to_parquet(), rows.to_parquet(), 4)
    return writer


@pytest.mark.parametrize("hashed", [False, True])
def test_it_is_what_loops_over_the_tables_find(tmp_path: Path, hashed: bool) -> None:
    tables = [table(seed, 60) for seed in range(3)]
    writer = stored(tmp_path / "s", tables)
    known = KnownSources(writer.storage, writer.state.segments, hashed)
    every = SourceTable.joined(tables)
    bare = np.repeat([True, False, True], 60)  # tables without a spacing
    fine = np.flatnonzero(every.error == "")
    assert len(known) == len(fine)
    assert known.unscaled
    assert known.withdrawn == set(every.content_hash[every.error == WITHDRAWN])
    names = source_names(every.dataset, every.path)
    assert sorted(known.line_n.tolist()) == list(range(len(fine)))
    number = {int(fine[line]): i for i, line in enumerate(known.line_n.tolist())}
    fine = fine[known.line_n]
    assert known.named(names).tolist() == [number.get(i, -1) for i in range(len(every))]
    assert known.could_not_be_read(names).tolist() == (every.error != "").tolist()
    wanted = sorted({*every.content_hash, "0" * 32})
    last = {every.content_hash[line]: number[int(line)] for line in sorted(fine)}
    assert known.holding(digests(wanted)).tolist() == [last.get(content, -1) for content in wanted]
    flags = [
        IS_TEST * (every.split[i] in ("test", "Testing"))
        + IS_DICOM * (every.reader[i] == "dicom")
        + IS_PARTIAL * bool(hashed or bare[i])
        for i in fine
    ]
    assert known.flags_n.tolist() == flags
    tests = {every.content_hash[line] for line, flag in zip(fine, flags, strict=True) if flag & IS_TEST}
    assert known.any_holding(digests(wanted), known.flags_n & IS_TEST > 0).tolist() == [c in tests for c in wanted]
    assert known.group_n.tolist() == group_hashes(every.dataset[fine], every.group[fine]).tolist()
    some = np.arange(0, len(fine), 7)
    lines = {int(i): fine[i] for i in some}
    assert known.groups(some) == {i: group_key(every.dataset[j], every.group[j]) for i, j in lines.items()}
    columns = (every.content_hash, every.reader, every.frames, every.height, every.width)
    facts = {(one[0], one[1]): one[2:] for one in (tuple(column[i] for column in columns) for i in sorted(fine))}
    for content in wanted:
        for reader, version in (("images", 2), ("images", 1), ("dicom", 1), ("video", 1)):
            found = known.facts(content, reader, version)
            stamp = reader if version == 1 else f"{reader}:{version}"
            told = None if found is None else (found.frames, found.height, found.width)
            assert told == facts.get((content, stamp))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_test_groups_are_those_of_a_loop_over_names(fraction: float) -> None:
    rng = np.random.default_rng(3)
    groups = [*(f"g{i}" for i in range(40)), "patient:x", "patient:y"]
    files = [
        (f"d{rng.integers(0, 5)}", groups[rng.integers(0, len(groups))], "test" if rng.random() < 0.01 else "")
        for _ in range(600)
    ]
    keys = [group_key(dataset, group) for dataset, group, _ in files]
    marked = {key for key, (_, _, split) in zip(keys, files, strict=True) if split == "test"}
    own = {dataset for dataset, _, split in files if split == "test"}
    drawn = {
        key
        for key, (dataset, _, _) in zip(keys, files, strict=True)
        if dataset not in own and xxhash.xxh3_64_intdigest("\0".join(key).encode()) / 2**64 < fraction
    }
    assert own
    assert in_test(files, fraction).tolist() == [key in marked | drawn for key in keys]


def test_growth_holds_little_of_a_source_that_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a scan it holds the listing, what was found of each file, and the store's sources."""
    count = 20_000

    def content(_: SourceReader, path: str, __: str) -> str:
        return xxhash.xxh3_128_hexdigest(path.encode())

    monkeypatch.setattr(spill, "_HELD", 1 << 12)
    monkeypatch.setattr(SourceReader, "content_hash", content)
    monkeypatch.setattr(DecodingProcess, "probe", lambda *_: FileFacts(1, 32, 32, 200))
    paths = [f"images/patient-{i // 3:09d}/frame-{i:09d}.png" for i in range(count + 10)]
    groups = [f"patient-{i // 3:09d}" for i in range(count + 10)]
    described = single_frames(
        path=paths[:count],
        group=groups[:count],
        content_hash=[content(None, path, "") for path in paths[:count]],  # type: ignore[arg-type]
        dataset=["images"] * count,
        label=[""] * count,
        split=[""] * count,
    )
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.create_or_open(512)
    writer.add_segment(*described, count)
    held: list[int] = []

    def new(*arguments: object) -> object:
        held.append(tracemalloc.get_traced_memory()[0])
        return find_new(*arguments)  # type: ignore[arg-type]

    find_new = growth._new
    monkeypatch.setattr(growth, "_new", new)
    tracemalloc.start()
    entries = packed_entries(
        Entry(path, "images", group, "", "", "images") for path, group in zip(paths, groups, strict=True)
    )
    settings = CacheSettings.model_validate({"views": {"count": 1}, "test_fraction": 0.0})
    added = grow(writer, Listing(tmp_path, entries), settings, ScanJournal(None), "stop")
    tracemalloc.stop()
    assert added == 10
    assert held[0] / count < 180  # 211 where all stays in memory
