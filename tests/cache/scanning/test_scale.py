"""Scans at scale: as many children as cores, nothing built is decoded again, and killed ones lose next to nothing."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.cache.scanning.test_known_groups import grown
from tests.support.builds import pictures, small
from usjepa.cache.decoding import many
from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.decoding.many import ManyChildren
from usjepa.cache.errors import Interrupted, SourceError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.scan import list_source, scan
from usjepa.cache.sources.base import FileFacts, Listing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOUR = CacheSettings(decode_processes=4)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have children answer without decoding, and return the paths that they were asked for."""
    asked: list[str] = []

    def probe(self: DecodingProcess, path: str, reader: str) -> FileFacts:
        asked.append(path)
        if "bad" in path:
            raise SourceError(f"{path}: can't be read")
        return FileFacts(1, 40, 48, 200)

    monkeypatch.setattr(DecodingProcess, "probe", probe)
    return asked


def test_four_children_work_at_once_and_answers_stay_in_order() -> None:
    together = threading.Barrier(4, timeout=60)

    def work(child: DecodingProcess, item: int) -> tuple[int, int]:
        if item < 4:
            together.wait()  # passes only when four are at work at the same time
        return item, id(child)

    with ManyChildren(Listing(None, ()), FOUR) as children:
        found = list(children.each(work, range(100), 100))
    assert [item for item, _ in found] == list(range(100))
    assert len({child for _, child in found[:4]}) == 4


def test_files_are_fetched_while_others_are_decoded() -> None:
    """All four children are at work, and four more items are being fetched: on a slow share both mean waiting."""
    together = threading.Barrier(8, timeout=60)

    def fetch(item: int) -> None:
        if 4 <= item < 8:
            together.wait()

    def work(_: DecodingProcess, item: int) -> int:
        if item < 4:
            together.wait()
        return item

    with ManyChildren(Listing(None, ()), FOUR) as children:
        assert list(children.each(work, range(100), 100, fetch)) == list(range(100))


def test_a_few_files_are_left_to_one_child() -> None:
    with ManyChildren(Listing(None, ()), FOUR) as children:
        assert len(set(children.each(lambda child, _: id(child), range(20), 20))) == 1


def test_an_item_is_taken_only_shortly_before_its_answer_is_wanted() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    with ManyChildren(Listing(None, ()), FOUR) as children:
        found = children.each(lambda _, item: item, items(), 1000)
        assert next(found) == 0
        assert len(taken) <= 4 * many._AHEAD
        found.close()


def test_many_files_are_scanned_as_one_child_does(tmp_path: Path) -> None:
    pictures(tmp_path / "in", [f"{i:03d}.png" for i in range(40)])
    (tmp_path / "in/020.png").write_text("no picture")
    listing = list_source(str(tmp_path / "in"), FOUR)
    assert scan(listing, FOUR, None, "skip") == scan(listing, CacheSettings(decode_processes=1), None, "skip")
    with pytest.raises(SourceError, match=r"020\.png: can't be read"):
        scan(listing, FOUR, None, "stop")


def test_a_source_that_is_listed_twice_is_counted_twice(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["0.png", "1.png"])
    listing = list_source(str(tmp_path / "in"), FOUR)
    twice = replace(listing, entries=(*listing.entries, listing.entries[0], listing.entries[0]))
    table = scan(twice, FOUR, None, "stop")
    assert table.frames.tolist() == [1] * 4
    assert len(set(table.content_hash)) == 2


def test_what_was_counted_before_a_stop_is_not_decoded_again(tmp_path: Path, decoded: list[str]) -> None:
    pictures(tmp_path / "in", [f"{i:03d}.png" for i in range(80)])
    listing = list_source(str(tmp_path / "in"), FOUR)
    seen = 0

    def stop_at_sixtieth() -> None:
        nonlocal seen
        seen += 1
        if seen == 60:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        scan(listing, FOUR, ScanJournal(tmp_path / "journal.jsonl"), "stop", stop_at_sixtieth)
    first = len(decoded)
    scan(listing, FOUR, ScanJournal(tmp_path / "journal.jsonl"), "stop")
    assert len(decoded) - first <= 80 - 60 + 4 * many._AHEAD


def test_built_files_are_not_decoded_again_and_unreadable_ones_are(tmp_path: Path, decoded: list[str]) -> None:
    pictures(tmp_path / "in", ["a.png", "b.png", "bad.png"])
    skip = "cache.on_error=skip"
    grown(tmp_path / "s", tmp_path / "in", skip)
    assert sorted(decoded) == ["a.png", "b.png", "bad.png"]
    decoded.clear()
    pictures(tmp_path / "in", ["c.png"], seed=2)
    (tmp_path / "in/a.png").rename(tmp_path / "in/moved.png")
    grown(tmp_path / "s", tmp_path / "in", skip)
    assert sorted(decoded) == ["bad.png", "c.png"]
    assert small(skip).cache.on_error == "skip"
