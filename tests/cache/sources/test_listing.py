"""Listings: the same files give the same entries in the same order, and what is left out is said."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from tests.support.builds import pictures
from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.recipes.cache import CacheSettings, PhantomSettings
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.base import Contents, Entry, Listing
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.found import find_rows
from usjepa.cache.sources.layouts.base import Folder
from usjepa.cache.sources.tree import Tree

SETTINGS = CacheSettings(phantom=PhantomSettings(patients=2, frames_per_patient=5, size=64))


def image(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 20), level, np.uint8)).save(path)
    return path


def listed(source: Path | str) -> Listing:
    return list_source(str(source), SETTINGS)


def test_places_in_a_folder_become_dataset_label_group_and_split(tmp_path: Path) -> None:
    root = tmp_path / "clinic"
    for name in (
        "a.png",
        "cyst/b.png",
        "lung/covid/c.png",
        "lung/deep/er/d.png",
        "heart/Test/2CH/e.png",
        "train/f.png",
    ):
        image(root / name)
    assert listed(root).entries == (
        Entry("a.png", "clinic", "a", "", "", "images"),
        Entry("cyst/b.png", "clinic", "cyst/b", "cyst", "", "images"),
        Entry("heart/Test/2CH/e.png", "heart", "heart/Test/2CH/e", "2CH", "test", "images"),
        Entry("lung/covid/c.png", "lung", "lung/covid/c", "covid", "", "images"),
        Entry("lung/deep/er/d.png", "lung", "lung/deep/er/d", "er", "", "images"),
        Entry("train/f.png", "clinic", "train/f", "", "train", "images"),
    )


def test_order_is_by_code_points_of_the_path(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a.png", "B.png", "é.png", "a-b/c.png", "10.png", "9.png"):
        image(tmp_path / name)
    paths = [entry.path for entry in listed(tmp_path).entries]
    assert paths == sorted(paths)
    assert paths == ["10.png", "9.png", "B.png", "a-b/c.png", "a.png", "a/z.png", "b.png", "é.png"]


def test_a_manifest_in_the_folder_is_used_and_that_is_said(tmp_path: Path) -> None:
    image(tmp_path / "a.png"), image(tmp_path / "b.png"), image(tmp_path / "unlisted.png")
    (tmp_path / "manifest.csv").write_text("path,label\nb.png,y\na.png,x\n")
    by_folder, by_file = listed(tmp_path), listed(tmp_path / "manifest.csv")
    assert by_folder == by_file
    assert [(entry.path, entry.label) for entry in by_folder.entries] == [("a.png", "x"), ("b.png", "y")]
    assert by_folder.notes == (
        f"{tmp_path.name} is read as a manifest: 2 files; splits: none given (without 2); groups: each file, since the "
        "data names no patients.",
    )


def test_other_kinds_are_counted_and_hidden_files_are_not(tmp_path: Path) -> None:
    image(tmp_path / "a.PNG")
    for name in ("SHA256SUMS", "README.md", "notes.txt", "more.txt", ".hidden.png", ".git/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = listed(tmp_path)
    assert [entry.path for entry in found.entries] == ["a.PNG"]
    assert found.ignored == 4
    assert found.notes == ("files of kinds that are not read were ignored: 1 .md, 2 .txt, 1 SHA256SUMS.",)


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    found = listed(image(tmp_path / "clinic" / "a.png"))
    assert found.root == tmp_path / "clinic"
    assert found.entries == (Entry("a.png", "clinic", "a", "", "", "images"),)


def test_a_dicom_is_known_by_its_magic_where_its_name_says_nothing(tmp_path: Path) -> None:
    dicom = Path(str(get_testdata_file("examples_rgb_color.dcm", download=False))).read_bytes()
    for name in ("IM0001", "1.2.840.113619.2.5", "a.dcm", "DICOMDIR"):
        (tmp_path / name).write_bytes(dicom)
    (tmp_path / "LICENSE").write_text("no DICOM " * 50)
    assert [(entry.path, entry.reader) for entry in listed(tmp_path).entries] == [
        ("1.2.840.113619.2.5", "dicom"),
        ("IM0001", "dicom"),
        ("a.dcm", "dicom"),
    ]


def test_every_image_dataset_of_an_hdf5_file_is_a_source(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["y"], file["x/z"], file["labels"] = np.zeros((2, 16, 16), np.uint8), np.ones((3, 16, 16)), [1, 2]
    (tmp_path / "broken.h5").write_text("no HDF5")
    entries = listed(tmp_path).entries
    assert [entry.path for entry in entries] == ["a.h5::x/z", "a.h5::y", "broken.h5"]
    assert {entry.group for entry in entries} == {"a", "broken"}
    reader = SourceReader(tmp_path, SETTINGS)
    hashes = {reader.content_hash(entry.path, entry.reader) for entry in entries}
    assert len(hashes) == 3
    with pytest.raises(SourceError, match=r"^broken\.h5: can't be read as HDF5"):
        reader.probe("broken.h5", "hdf5")


def test_a_manifest_can_name_datasets_but_not_twice(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = np.zeros((2, 16, 16), np.uint8), np.zeros((2, 16, 16), np.uint8)
    (tmp_path / "manifest.csv").write_text("path,label\na.h5::y,good\n")
    assert listed(tmp_path).entries == (Entry("a.h5::y", tmp_path.name, "a", "good", "", "hdf5"),)
    (tmp_path / "manifest.csv").write_text("path,label\na.h5::y,good\na.h5,bad\n")
    with pytest.raises(UsageError, match=r"'a\.h5::y' is listed by name and again"):
        listed(tmp_path)


def test_a_missing_source_says_what_a_source_is() -> None:
    with pytest.raises(UsageError, match=r"no-such-place: no such file or folder\. SOURCE is a folder"):
        listed("no-such-place")


@pytest.mark.parametrize("files", [[], ["README.md", ".hidden.png"]], ids=["empty", "nothing-readable"])
def test_an_empty_folder_says_what_is_read(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(UsageError, match=r"no file in it is of a kind that is read\. Read are: \.avi, "):
        listed(tmp_path)
    (tmp_path / "alone.txt").write_text("x")
    with pytest.raises(UsageError, match=r"alone\.txt: not a kind of file that is read"):
        listed(tmp_path / "alone.txt")


def test_a_link_out_of_the_folder_is_refused_one_within_is_read(tmp_path: Path) -> None:
    outside, root = image(tmp_path / "outside" / "b.png"), tmp_path / "root"
    image(root / "a.png")
    (root / "again.png").symlink_to(root / "a.png")
    assert [entry.path for entry in listed(root).entries] == ["a.png", "again.png"]
    (root / "out.png").symlink_to(outside)
    with pytest.raises(UsageError, match=r"out\.png: refused: a symbolic link leads it out of the folder"):
        listed(root)
    (root / "out.png").unlink()
    (root / "folder").symlink_to(outside.parent)
    with pytest.raises(UsageError, match="folder: refused"):
        listed(root)


def test_the_phantom_is_listed_in_order() -> None:
    found = listed("phantom")
    assert found.root is None
    assert len({entry.path for entry in found.entries}) == len(found.entries) == 10
    assert [entry.path for entry in found.entries] == sorted(entry.path for entry in found.entries)
    assert {entry.reader for entry in found.entries} == {"phantom"}


def test_a_source_changed_since_the_scan_is_refused_even_with_size_and_time_kept(tmp_path: Path) -> None:
    path = image(tmp_path / "a.bmp", level=10)
    known = SourceReader(tmp_path, SETTINGS).content_hash("a.bmp", "images")
    (frame,) = SourceReader(tmp_path, SETTINGS).frames("a.bmp", "images", [0], known)
    assert frame[0, 0] == 10
    before = path.stat()
    image(path, level=11)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(SourceError, match=r"a\.bmp: its content changed since it was scanned"):
        list(SourceReader(tmp_path, SETTINGS).frames("a.bmp", "images", [0], known))


def test_a_store_cannot_make_the_reader_leave_its_folder(tmp_path: Path) -> None:
    image(tmp_path / "secret.png")
    (tmp_path / "root").mkdir()
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(SourceError, match="refused"):
            list(SourceReader(tmp_path / "root", SETTINGS).frames(path, "images", [0], "0" * 32))


def test_a_reader_travels_to_another_process_without_what_it_holds_open(tmp_path: Path) -> None:
    image(tmp_path / "a.png", level=10)
    reader = SourceReader(tmp_path, SETTINGS)
    known = reader.content_hash("a.png", "images")
    list(reader.frames("a.png", "images", [0], known))
    copy = pickle.loads(pickle.dumps(reader))
    (frame,) = copy.frames("a.png", "images", [0], known)
    assert frame[0, 0] == 10


def test_phantom_frames_come_through_the_same_door() -> None:
    entry = listed("phantom").entries[0]
    reader = SourceReader(None, SETTINGS)
    known = reader.content_hash(entry.path, "phantom")
    (frame,) = reader.frames(entry.path, "phantom", [0], known)
    assert frame.shape == (64, 64, 3)
    with pytest.raises(SourceError, match="changed since it was scanned"):
        list(reader.frames(entry.path, "phantom", [0], "0" * 32))
    with pytest.raises(SourceError, match="the source is the phantom"):
        list(reader.frames("a.png", "images", [0], "0" * 32))


def test_the_real_folder_is_listed_through_its_manifest(dev_data: Path) -> None:
    found = listed(dev_data)
    assert len(found.entries) == 313
    assert {entry.dataset for entry in found.entries} >= {"camus", "pocus"}
    assert [entry.path for entry in found.entries] == sorted(entry.path for entry in found.entries)


def test_a_walk_holds_no_names_of_folders_that_it_has_left_and_reads_them_again_when_asked(tmp_path: Path) -> None:
    pictures(tmp_path, ["1.png", "a/2.png", "a/b/3.png", "c/4.png", "c/@eaDir/5.png"])
    (tmp_path / "c/link").symlink_to(tmp_path / "a")
    tree = Tree(tmp_path)
    found = find_rows(Folder(tree), "auto")
    assert [entry.path for entry in found.entries] == ["1.png", "a/2.png", "a/b/3.png", "c/4.png"]
    assert set(tree._folders) == set(tree._below) == {""}
    assert sorted(tree.files_below()) == ["1.png", "a/2.png", "a/b/3.png", "c/4.png"]
    assert (tree.linked, tree.system) == (found.linked, found.system) == (["c/link"], ["@eaDir"])


def test_an_archive_that_was_left_is_not_opened_again(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/1.png", b"")
    opened: list[Path] = []

    def members_of(file: Path) -> Contents:
        opened.append(file)
        return Contents(["x/1.png"], {})

    tree = Tree(tmp_path, members_of)
    assert len(find_rows(Folder(tree), "auto").entries) == 1
    assert list(tree.files_below()) == ["a.zip::x/1.png"]
    assert opened == [tmp_path / "a.zip"]
