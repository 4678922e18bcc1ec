"""What was unreadable and is mended joins the store; what was built is never replaced."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.builds import pictures, small
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import SourceError
from usjepa.cache.reading.store import open_store
from usjepa.cache.upkeep.repair import repair
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify, verify_sources

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = small("cache.views.count=1", "cache.on_error=skip")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store of two pictures beside which lies a file that can't be read."""
    pictures(tmp_path / "in", ["a/1.png", "a/2.png"])
    (tmp_path / "in/a/bad.png").write_text("not a picture")
    build(str(tmp_path / "s"), RECIPE, BuildRequest(source=str(tmp_path / "in")))
    return tmp_path / "s"


def rows(store: Path) -> list[str]:
    opened = open_store(store)
    return [opened.table.sources[i].path for i in opened.table.source]


def test_a_file_mended_since_it_was_recorded_as_unreadable_is_added(tmp_path: Path, store: Path) -> None:
    before = open_store(store)
    pictures(tmp_path / "in", ["a/bad.png"], seed=3)
    build(str(store), RECIPE, BuildRequest(source=str(tmp_path / "in")))
    assert rows(store) == ["a/1.png", "a/2.png", "a/bad.png"]
    np.testing.assert_array_equal(open_store(store).read(before.rows).pixels, before.read(before.rows).pixels)
    assert "failed: none" in status_report(str(store))
    assert verify(str(store)).damages == []
    assert verify_sources(str(store), str(tmp_path / "in"), RECIPE.cache) == []


def test_a_file_that_could_not_even_be_opened_is_added_once_it_can(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png"])
    (tmp_path / "in/a/2.png").symlink_to(tmp_path / "in/a/gone.png")
    build(str(tmp_path / "s"), RECIPE, BuildRequest(source=str(tmp_path / "in")))
    (tmp_path / "in/a/2.png").unlink()
    pictures(tmp_path / "in", ["a/2.png"], seed=3)
    build(str(tmp_path / "s"), RECIPE, BuildRequest(source=str(tmp_path / "in")))
    assert rows(tmp_path / "s") == ["a/1.png", "a/2.png"]


def test_a_file_that_stays_unreadable_is_recorded_once_whatever_becomes_of_it(tmp_path: Path, store: Path) -> None:
    (tmp_path / "in/a/bad.png").write_text("still no picture, but other bytes")
    build(str(store), RECIPE, BuildRequest(source=str(tmp_path / "in")))
    assert rows(store) == ["a/1.png", "a/2.png"]
    assert "failed: 1\n  a/bad.png" in status_report(str(store))


def test_a_new_file_that_can_not_be_read_keeps_no_build_from_going_on(tmp_path: Path, store: Path) -> None:
    (tmp_path / "in/a/worse.png").write_text("no picture either")
    build(str(store), RECIPE, BuildRequest(source=str(tmp_path / "in"), teacher="random"))
    assert "latents/demo" in open_store(store).layers
    assert rows(store) == ["a/1.png", "a/2.png"]


def test_a_file_mended_once_and_edited_later_is_refused(tmp_path: Path, store: Path) -> None:
    for seed in (3, 4):
        pictures(tmp_path / "in", ["a/bad.png"], seed=seed)
        if seed == 3:
            build(str(store), RECIPE, BuildRequest(source=str(tmp_path / "in")))
    with pytest.raises(SourceError, match=r"a/bad\.png .*content changed since it was built"):
        build(str(store), RECIPE, BuildRequest(source=str(tmp_path / "in")))


def test_the_table_of_a_mended_files_segment_is_made_again_from_the_sources(tmp_path: Path, store: Path) -> None:
    pictures(tmp_path / "in", ["a/bad.png"], seed=3)
    (tmp_path / "in/a/worse.png").write_text("no picture")
    build(str(store), RECIPE, BuildRequest(source=str(tmp_path / "in")))
    table = store / "segments/000002/sources.parquet"
    whole = table.read_bytes()
    table.write_bytes(os.urandom(len(whole)))
    repair(str(store), RECIPE, source=str(tmp_path / "in"))
    assert table.read_bytes() == whole
