"""Growth: the groups of a store hold for new files of the same patients, or the build says why it can't be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cache.sources.test_groups import dicom
from tests.support.builds import pictures, small
from usjepa.cache.errors import SourceError
from usjepa.cache.scanning.growth import grow
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.origins.segment_tables import read_tables
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path


def grown(store: Path, source: Path, *more: str) -> dict[str, tuple[str, str]]:
    """Add a source's files to the tables of a store; return group and split of every path there."""
    settings = small("cache.views.count=1", "cache.test_fraction=0", *more).cache
    writer = StoreWriter(LocalStorage(store))
    writer.create_or_open(settings.rows_per_shard)
    grow(writer, list_source(str(source), settings), settings, ScanJournal(None), settings.on_error)
    found: dict[str, tuple[str, str]] = {}
    for segment in writer.state.segments:
        table, _ = read_tables(writer.storage, segment)
        found |= dict(zip(table.path, zip(table.group, table.split, strict=True), strict=True))
    return found


def test_a_new_file_joins_its_patient_under_the_name_that_the_store_has(tmp_path: Path) -> None:
    dicom(tmp_path / "in/m.dcm", "7", seed=1)
    before = grown(tmp_path / "s", tmp_path / "in")
    dicom(tmp_path / "in/a.dcm", "7", seed=2)
    after = grown(tmp_path / "s", tmp_path / "in")
    assert before["m.dcm"] == after["m.dcm"] == after["a.dcm"] == ("patient:m", "")


def test_a_new_file_of_a_test_patient_is_test(tmp_path: Path) -> None:
    dicom(tmp_path / "in/test/m.dcm", "7", seed=1)
    grown(tmp_path / "s", tmp_path / "in")
    dicom(tmp_path / "in/late.dcm", "7", seed=2)
    assert grown(tmp_path / "s", tmp_path / "in")["late.dcm"] == ("patient:test/m", "test")


def test_a_patient_who_is_trained_on_can_not_become_a_test_patient(tmp_path: Path) -> None:
    dicom(tmp_path / "in/m.dcm", "7", seed=1)
    grown(tmp_path / "s", tmp_path / "in")
    dicom(tmp_path / "in/test/late.dcm", "7", seed=2)
    with pytest.raises(SourceError, match=r"test/late\.dcm: it is marked `test`, but the store has rows of its group"):
        grown(tmp_path / "s", tmp_path / "in")


def test_a_store_of_hashed_paths_grows_from_folder_to_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USJEPA_PATH_KEY", "the clinic's")
    dicom(tmp_path / "may/m.dcm", "7", seed=1)
    grown(tmp_path / "s", tmp_path / "may", "cache.hash_paths=true")
    dicom(tmp_path / "june/x.dcm", "7", seed=2)
    found = grown(tmp_path / "s", tmp_path / "june", "cache.hash_paths=true")
    assert len(found) == 2
    assert len({group for group, _ in found.values()}) == 1


@pytest.mark.slow
def test_a_store_grows_from_folder_to_folder_with_one_secret_and_not_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USJEPA_PATH_KEY", "the clinic's")
    dicom(tmp_path / "may/test/m.dcm", "7", seed=1)
    grown(tmp_path / "s", tmp_path / "may")
    dicom(tmp_path / "june/x.dcm", "7", seed=2)
    dicom(tmp_path / "june/y.dcm", "8", seed=3)
    found = grown(tmp_path / "s", tmp_path / "june")
    assert found["x.dcm"] == found["test/m.dcm"]
    assert found["y.dcm"][0] != found["x.dcm"][0]
    dicom(tmp_path / "july/z.dcm", "9", seed=4)
    monkeypatch.setenv("USJEPA_PATH_KEY", "another's")
    with pytest.raises(SourceError, match=r"z\.dcm: whether this patient's other files are in the store can't be told"):
        grown(tmp_path / "s", tmp_path / "july")
    monkeypatch.delenv("USJEPA_PATH_KEY")
    with pytest.raises(SourceError, match="USJEPA_PATH_KEY from its first build on"):
        grown(tmp_path / "s", tmp_path / "july")
    assert grown(tmp_path / "s", tmp_path / "july", "cache.group=file")["z.dcm"] == ("z", "")


@pytest.mark.slow
def test_a_store_of_bare_names_keeps_them_and_refuses_a_patient_who_is_torn(tmp_path: Path) -> None:
    """As stores of an earlier version have them: a file's own name, whatever its folder."""
    names = "cache.group=([^/]+?)([.][^./]*)?$"
    pictures(tmp_path / "in", ["x/001.png", "y/001.png"])
    dicom(tmp_path / "in/x/IM1.dcm", "7", seed=1)
    dicom(tmp_path / "in/x/IM2.dcm", "7", seed=2)
    before = grown(tmp_path / "s", tmp_path / "in", names)
    pictures(tmp_path / "in", ["z/001.png"], seed=1)
    after = grown(tmp_path / "s", tmp_path / "in")
    assert {path: after[path] for path in before} == before
    assert after["z/001.png"] == ("z/001", "")
    dicom(tmp_path / "in/x/IM3.dcm", "7", seed=3)
    with pytest.raises(SourceError, match=r"x/IM3\.dcm: the store has files of its patient or clip .* in 2 groups"):
        grown(tmp_path / "s", tmp_path / "in")
    assert grown(tmp_path / "s", tmp_path / "in", "cache.group=file")["x/IM3.dcm"] == ("x/IM3", "")
