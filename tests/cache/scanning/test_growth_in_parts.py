"""What a build adds is written some sources at a time: the bytes are those of all at once, and little is held."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import xxhash

from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.errors import SourceError
from usjepa.cache.perceptual import HASH_NBYTES
from usjepa.cache.places import spill
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning import growth, row_table, scanned
from usjepa.cache.scanning.growth import grow, regrown
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.scan import scan
from usjepa.cache.sources.base import Entry, FileFacts, Listing, Spacing, packed_entries
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = 1 << 14
"""Sources of a part that holds all of these."""
FIRST, ALL = 90, 140


class Made(NamedTuple):
    """What a store has once a listing was added, or why it was not."""

    tables: list[bytes]
    said: list[str]
    again: list[dict[str, memoryview]]
    """The last segment's tables, made from the listing again."""


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have paths `content/number` tell what a file holds, so that none is there."""

    def content_hash(_: SourceReader, path: str, __: str) -> str:
        return xxhash.xxh3_128_hexdigest(path.rpartition("/")[0].encode())

    def probe(_: DecodingProcess, path: str, __: str) -> FileFacts:
        rng = np.random.default_rng(xxhash.xxh3_64_intdigest(path.rpartition("/")[0].encode()))
        if rng.random() < 0.1:
            raise SourceError(f"{path}: can't be read")
        frames = int(rng.choice([1, 1, 2, 9]))
        spacing = Spacing(*rng.uniform(0.1, 1, 2)) if "scaled" in path and rng.random() < 0.5 else None
        hashes = rng.choice([0, 255], (frames, 1)).astype(np.uint8).repeat(HASH_NBYTES, 1).tobytes()
        height, width = rng.integers(20, 700, 2).tolist()
        return FileFacts(frames, height, width, 200, spacing, hashes if frames > 1 else None)

    monkeypatch.setattr(SourceReader, "content_hash", content_hash)
    monkeypatch.setattr(DecodingProcess, "probe", probe)


def entries(seed: int, torn: bool = False) -> list[Entry]:
    """Return sources of patients, some twice; those of a patient have their contents for themselves, unless `torn`."""
    rng, made = np.random.default_rng(seed), []
    for number in range(ALL):
        patient = int(rng.integers(0, 30)) + 5 * (number >= FIRST)
        whose = "scaled" if seed % 2 and number > 40 else "plain"
        content = f"{whose}-{0 if torn else patient}-{rng.integers(0, 6)}"
        split = "test" if patient == 34 else str(rng.choice(["", "train"]))
        made.append(Entry(f"{content}/{number}", f"d{patient % 3}", f"p{patient}", "é", split, "video"))
    return made


def written(root: Path, listed: list[Entry], size: int, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Made:
    """Build a store of the first sources, then add all of them, so many of them or of a table's lines at a time."""
    monkeypatch.setattr(scanned, "_BATCH", size)
    monkeypatch.setattr(row_table, "_BATCH", size)
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(64)
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(growth.logger, "info", said.append)
        for count, more in ((FIRST, {"min_change": 0, "test_fraction": 0.0}), (ALL, {"test_fraction": 0.3})):
            recipe = CacheSettings.model_validate({"on_error": "skip", "views": {"count": 3}} | settings | more)
            listing = Listing(root, packed_entries(listed[:count]))
            try:
                grow(writer, listing, recipe, ScanJournal(None), "skip")
            except SourceError as error:
                said.append(str(error))
    segments = writer.state.segments
    again = regrown(writer.storage, listing, recipe, segments, segments[-1].number)
    return Made([path.read_bytes() for path in sorted(root.rglob("*.parquet"))], said, again)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [{}, {"min_change": 40}, {"max_frames_per_source": 3, "views": {"count": 1}}])
def test_tables_and_logs_are_the_same_whatever_the_size_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, settings: dict[str, object]
) -> None:
    listed = entries(seed)
    whole = written(tmp_path / "whole", listed, WHOLE, monkeypatch, **settings)
    assert len(whole.tables) == 4
    assert {"rows": whole.tables[2], "sources": whole.tables[3]} == whole.again[0]
    assert any("unreadable sources are recorded" in line for line in whole.said)
    assert any("passed over" in line for line in whole.said) == ("min_change" in settings)
    assert any("spacing: known of" in line for line in whole.said) == (seed % 2 == 1)
    for size in (1, 13):
        assert written(tmp_path / str(size), listed, size, monkeypatch, **settings) == whole


def test_a_first_build_writes_the_tables_of_all_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = CacheSettings.model_validate({"on_error": "skip", "views": {"count": 3}, "test_fraction": 0.0})
    for seed in range(3):
        made = written(tmp_path / str(seed), entries(seed), 13, monkeypatch)
        table = scan(Listing(tmp_path, tuple(entries(seed)[:FIRST])), recipe, None, "skip")
        rows = row_table.row_table(table, recipe)
        assert made.tables[:2] == [rows.to_parquet(), table.to_parquet()]


def test_a_patient_who_is_torn_is_refused_in_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [written(tmp_path / str(size), entries(0, torn=True), size, monkeypatch) for size in (WHOLE, 5)]
    assert "the store has files of its patient or clip" in found[0].said[-1]
    assert found[0] == found[1]


def test_a_source_more_costs_the_tables_of_new_sources_no_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the end of the scan to that of growth; objects and rows are those of a part."""
    for module in (scanned, row_table):
        monkeypatch.setattr(module, "_BATCH", 1 << 9)
    monkeypatch.setattr(DecodingProcess, "probe", lambda *_: FileFacts(1, 32, 32, 200))
    held, find_new = [0], growth._new

    def new(*arguments: object) -> object:
        tracemalloc.reset_peak()
        held[0] = tracemalloc.get_traced_memory()[0]
        return find_new(*arguments)  # type: ignore[arg-type]

    def peak(count: int) -> int:
        """Return the most that so many new sources take."""
        numbers = ((i, f"patient-{i // 3:09d}") for i in range(count))
        made = packed_entries(Entry(f"{group}-{i:09d}/0", "images", group, "", "", "images") for i, group in numbers)
        writer = StoreWriter(LocalStorage(tmp_path / str(count)))
        writer.create_or_open(512)
        settings = CacheSettings.model_validate({"views": {"count": 2}})
        tracemalloc.start()
        assert grow(writer, Listing(tmp_path, made), settings, ScanJournal(None), "stop") == 2 * count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found - held[0]

    monkeypatch.setattr(spill, "_HELD", 1 << 12)
    monkeypatch.setattr(growth, "_new", new)
    assert (peak(12_000) - peak(4_000)) / 8_000 < 160  # bytes; 184 where all stays in memory
