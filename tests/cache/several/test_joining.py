"""One table of several stores, and what more than one of them holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.several import names, write_sources
from usjepa.cache import open_store, open_stores
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.copying.selection import Selection
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
    for order in ("ab", "ba"):
        found = joined(tmp_path, *order)
        assert [found.table.sources[number].path for number in found.withdrawn] == ["uno"]
