"""One table of several stores, and what more than one of them holds."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.several import hashed, names, write_sources
from usjepa.cache import open_store, open_stores
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.copying.selection import Selection
from usjepa.cache.several.joining import join
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.origins.sources import Source
from usjepa.cache.store.origins.table import Table
from usjepa.cache.store.tables import WITHDRAWN, tombstone
from usjepa.cache.thinning.remove import remove
from usjepa.cache.thinning.withdrawal import Choice

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.several.joining import Joined


def joined(tmp_path: Path, *letters: str) -> Joined:
    return open_stores([tmp_path / letter for letter in letters]).joined


def test_sources_are_numbered_store_after_store_each_with_its_store(tmp_path: Path) -> None:
    for letter in "abc":
        write_sources(tmp_path / letter, names(letter, 3), views=2)
    found = joined(tmp_path, "b", "a", "c")
    assert [source.path for source in found.table.sources] == [*names("b", 3), *names("a", 3), *names("c", 3)]
    assert found.part_S.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.table.source.tolist() == [number for number in range(9) for _ in range(2)]
    assert not found.twins
    assert not len(found.repeated)
    assert not len(found.withdrawn)


def test_rows_that_two_parts_of_a_store_both_hold_are_found(tmp_path: Path) -> None:
    write_sources(tmp_path / "s", names("s", 5), views=2)
    for letter, rows in (("a", (0, 7)), ("b", (4, 10))):
        copy_store(str(tmp_path / "s"), str(tmp_path / letter), Selection(rows=(rows,)))
    found = joined(tmp_path, "a", "b")
    assert found.repeated.tolist() == [7, 8, 9]  # rows 4, 5 and 6 of the store, again
    assert found.table.sources == open_store(tmp_path / "s").table.sources
    assert not found.twins


def test_the_same_content_under_another_name_or_group_is_a_twin(tmp_path: Path) -> None:
    write_sources(tmp_path / "a", ["one", "two", "three"], ["x", "y", "z"])
    write_sources(tmp_path / "b", ["other", "two", "four"], ["x", "y", "w"], ["g", "h", "i"])
    found = joined(tmp_path, "a", "b")
    assert len(found.table.sources) == 6
    assert found.twins == ((0, 3), (1, 4))
    assert not len(found.repeated)


def test_two_files_of_one_store_with_the_same_content_are_left_to_it(tmp_path: Path) -> None:
    write_sources(tmp_path / "a", ["one", "two"], ["x", "x"])
    write_sources(tmp_path / "b", ["three", "four"], ["z", "z"])
    found = joined(tmp_path, "a", "b")
    assert len(found.table.sources) == 4
    assert not found.twins


def test_what_was_withdrawn_from_one_store_is_found_in_another(tmp_path: Path) -> None:
    write_sources(tmp_path / "a", ["one", "two", "three"], ["x", "y", "z"])
    write_sources(tmp_path / "b", ["uno", "due"], ["x", "w"])
    remove(str(tmp_path / "a"), Choice(sources=("one",)))
    copy_store(str(tmp_path / "a"), str(tmp_path / "c"), Selection(rows=((2, 3),)))
    for order in ("ab", "ba", "cb"):
        found = joined(tmp_path, *order)
        assert [found.table.sources[number].path for number in found.withdrawn] == ["uno"]


def drawn(seed: int, part: int) -> Table:
    """Return a table whose sources come again in others: alike, under another name, unreadable or withdrawn."""
    rng = np.random.default_rng([seed, part])
    sources = []
    for i in rng.permutation(20)[:12].tolist():
        content = hashed(str(i % 9))
        kind = rng.integers(0, 12)
        path, error = (f"{i}.png" if kind < 7 else f"{part}-{i}.png"), ("" if kind else "no image")
        if kind == 11:
            path, content, error = WITHDRAWN, tombstone(content), WITHDRAWN
        sources.append(Source(path, "d", path, "", "", content, 2, error))
    rows = [(s, f, v) for s in range(12) if not sources[s].error for f in range(2) for v in range(rng.integers(0, 3))]
    source, frame, view = np.array(rows, np.int32).reshape(-1, 3).T
    return Table(sources, source, frame, view.astype(np.int16))


@pytest.mark.parametrize("seed", range(30))
def test_a_joined_table_is_that_of_loops_over_sources_and_rows(seed: int) -> None:
    tables = [drawn(seed, part) for part in range(3)]
    readable = [{one.content_hash for one in table.sources if not one.error} for table in tables]
    shared = {content for i in range(3) for j in range(i) for content in readable[i] & readable[j]}
    sources: list[Source] = []
    parts: list[int] = []
    twins: list[tuple[int, int]] = []
    rows: list[tuple[int, int, int]] = []
    repeated: list[int] = []
    for part, table in enumerate(tables):
        before, number = len(sources), list[int]()
        for one in table.sources:
            same = [j for j in range(before) if sources[j].content_hash == one.content_hash in shared]
            alike = [j for j in same if sources[j] == one]
            if not alike:
                twins += [(j, len(sources)) for j in same]
                sources.append(one)
                parts.append(part)
            number.append(alike[0] if alike else len(sources) - 1)
        for s, frame, view in zip(table.source, table.frame, table.view, strict=True):
            row = (number[s], int(frame), int(view))
            if row in rows:
                repeated.append(len(rows))
            rows.append(row)
    stones = [(part, one.content_hash) for part, one in zip(parts, sources, strict=True) if one.error == WITHDRAWN]
    gone = [
        i
        for i, one in enumerate(sources)
        if not one.error and any(content == tombstone(one.content_hash) and p != parts[i] for p, content in stones)
    ]
    found = join(tables)
    assert list(found.table.sources) == sources
    assert [found.table.sources[i] for i in range(len(sources))] == sources
    assert found.part_S.tolist() == parts
    assert list(found.twins) == twins
    assert list(zip(found.table.source, found.table.frame, found.table.view, strict=True)) == rows
    assert found.repeated.tolist() == repeated
    assert found.withdrawn.tolist() == gone


def test_two_stores_as_one_hold_neither_sources_nor_rows(tmp_path: Path) -> None:
    count, small = 70_000, {"pixels": (1, 2, 2), "regions": (1,)}
    layers = {name: Layer(name, "uint8", shape, 35_000, {}) for name, shape in small.items()}
    for letter in "ab":
        write_sources(tmp_path / letter, [f"{letter}/frame-{i:09d}.png" for i in range(count)], described=layers)
    stores = open_stores([tmp_path / letter for letter in "ab"])
    tracemalloc.start()
    assert len(stores.table.sources) == 2 * count
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / (2 * count) < 60  # 570 when each source was an object, beside 10 for each row
