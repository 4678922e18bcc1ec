"""Manifests: what they say is taken over, and what is wrong with one is said by line before anything is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from PIL import Image

from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.layouts.base import Row
from usjepa.cache.sources.layouts.manifest import read_manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with lung/a.png, lung/b.png and c.png."""
    root = tmp_path / "clinic"
    (root / "lung").mkdir(parents=True)
    for name in ("lung/a.png", "lung/b.png", "c.png"):
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(root / name)
    return root


def manifest(folder: Path, text: str | bytes) -> Path:
    path = folder / "manifest.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(UsageError) as caught:
        read_manifest(manifest(folder, text))
    return str(caught.value)


def test_all_columns_are_taken_over(folder: Path) -> None:
    text = "split,path,label,extra,dataset,group\nTEST,lung/a.png,covid,x,pocus,p1\n,c.png,,y,other,p2\n"
    assert read_manifest(manifest(folder, text)) == [
        Row("lung/a.png", "covid", "p1", "test", "pocus"),
        Row("c.png", "", "p2", "", "other"),
    ]


def test_a_folder_of_zarr_is_a_file_that_a_manifest_may_name(folder: Path) -> None:
    zarr.create_array(folder / "lung/clip.zarr", data=np.zeros((2, 16, 16), np.uint8))
    text = "path,label\nlung/clip.zarr,a\n"
    assert read_manifest(manifest(folder, text)) == [Row("lung/clip.zarr", "a", "", "", "clinic")]
    listing = list_source(str(folder), CacheSettings())
    assert [(entry.path, entry.label) for entry in listing.entries] == [("lung/clip.zarr::array", "a")]


def test_missing_columns_fall_back_on_the_place_in_the_folder(folder: Path) -> None:
    assert read_manifest(manifest(folder, "path\nlung/a.png\nc.png\n")) == [
        Row("lung/a.png", "lung", dataset="clinic"),
        Row("c.png", dataset="clinic"),
    ]


@pytest.mark.parametrize("name", ["Manifest.csv", "MANIFEST.CSV", "manifest.TSV"])
def test_a_manifest_is_used_however_its_name_is_spelt(folder: Path, name: str) -> None:
    (folder / name).write_text("path\tpatient\nc.png\t7\n")
    (entry,) = list_source(str(folder), CacheSettings()).entries
    assert (entry.path, entry.group) == ("c.png", "7")
    (folder / "manifest.csv").write_text("path\nc.png\n")
    with pytest.raises(UsageError, match=r"it holds .* and .*\. Keep one of them"):
        list_source(str(folder), CacheSettings())


@pytest.mark.parametrize(
    "text",
    [
        "path;label;PatientID\nc.png;a, b;7\n",
        "path\tlabel\tpid\nc.png\ta, b\t7\n",
        "sep=;\npath;label;mrn\nc.png;a, b;7\n",
    ],
)
def test_semicolons_tabs_and_other_names_of_patients_are_understood(folder: Path, text: str) -> None:
    (entry,) = read_manifest(manifest(folder, text))
    assert (entry.path, entry.label, entry.group) == ("c.png", "a, b", "7")


def test_backslashes_are_named(folder: Path) -> None:
    assert "write paths with / and not with" in refused(folder, "path\nlung\\a.png\n")


@pytest.mark.parametrize(
    "column", ["group", "patient_or_video_id", "patient_id", "patient", "subject", "video_id", "clip_id"]
)
def test_groups_are_known_under_several_names(folder: Path, column: str) -> None:
    (entry,) = read_manifest(manifest(folder, f"path,{column.upper()}\nc.png,patient 7\n"))
    assert entry.group == "patient 7"


def test_a_byte_order_mark_quotes_and_blank_lines_are_fine(folder: Path) -> None:
    text = b'\xef\xbb\xbfpath,label\r\n"lung/a.png","effusion, large"\r\n\r\n,\r\nc.png,none\r\n'
    entries = read_manifest(manifest(folder, text))
    assert [(entry.path, entry.label) for entry in entries] == [("lung/a.png", "effusion, large"), ("c.png", "none")]


def test_a_missing_path_column_names_the_columns_found(folder: Path) -> None:
    assert "no column `path`; its columns are: file, label" in refused(folder, "file,label\nc.png,x\n")
    assert "its columns are: none" in refused(folder, "")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        pytest.param("/etc/hosts.png", "it is absolute", id="absolute"),
        pytest.param("C:/scans/a.png", "it is absolute", id="absolute-windows"),
        pytest.param("../outside.png", "climbs with '..'", id="parent"),
        pytest.param("lung/../../outside.png", "climbs with '..'", id="parent-inside"),
        pytest.param("lung\\..\\outside.png", "climbs with '..'", id="parent-windows"),
        pytest.param("link/outside.png", "a symbolic link leads it out", id="symlink"),
        pytest.param("gone.png", "does not exist", id="missing"),
        pytest.param("lung", "is a folder", id="folder"),
        pytest.param("notes.txt", "of a kind that is not read", id="kind"),
        pytest.param("  ", "its path is empty", id="empty"),
        pytest.param("c.png", "stands in line 2 already", id="twice"),
        pytest.param("./c.png", "stands in line 2 already", id="twice-in-disguise"),
    ],
)
def test_a_wrong_path_is_refused_with_its_line(folder: Path, path: str, reason: str) -> None:
    Image.new("L", (16, 16)).save(folder.parent / "outside.png")
    (folder / "link").symlink_to(folder.parent)
    (folder / "notes.txt").write_text("x")
    message = refused(folder, f"path,label\nc.png,y\nlung/a.png,y\n{path},y\n")
    assert "manifest.csv, line 4: " in message
    assert reason in message


def test_a_line_with_too_many_cells_is_refused(folder: Path) -> None:
    assert "line 2: 3 cells where there are 2 columns" in refused(folder, "path,label\nc.png,effusion, large\n")


def test_what_is_no_csv_is_refused(folder: Path) -> None:
    assert "line 2: not CSV" in refused(folder, 'path\n"c.png')
    assert "not UTF-8" in refused(folder, b"path,label\nc.png,\xe9panchement\n")
    assert "column `label` stands there twice" in refused(folder, "path,label,label\nc.png,x,y\n")
    assert "lists no files" in refused(folder, "path\n")


def test_a_link_that_stays_inside_is_followed(folder: Path) -> None:
    (folder / "again.png").symlink_to(folder / "c.png")
    (entry,) = read_manifest(manifest(folder, "path\nagain.png\n"))
    assert entry.path == "again.png"
