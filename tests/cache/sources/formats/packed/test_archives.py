"""Archives count as the folders that they are when unpacked, and are read without being unpacked."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.cache.sources.formats.dicom.test_dicom import write as write_dicom
from tests.support.files.clips import grey_steps, write_clip
from tests.support.files.decoded import listed, read_all
from tests.support.files.volumes import echo, write_camus, write_volume
from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.sources.formats.packed.members import Archive

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.sources.base import Listing

KINDS = [".zip", ".tar.gz"]


def packed(folder: Path, archive: Path) -> Path:
    """Pack all files of a folder into an archive of the kind that its ending says."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for path in files:
                opened.write(path, path.relative_to(folder))
        return archive
    with tarfile.open(archive, "w:gz") as tar:
        for path in files:
            tar.add(path, path.relative_to(folder))
    return archive


def of_every_kind(folder: Path) -> None:
    """Write a folder with files of seven readers, masks, and a test split."""
    frame = echo(1, 40, 48)[0]
    for name in ("cyst/1.png", "cyst/1_mask.png", "test/cyst/2.png", "__MACOSX/cyst/1.png", "cyst/.hidden.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(folder / name)
    write_clip(folder / "cyst" / "c.mp4", grey_steps(3))
    write_dicom(folder / "cyst" / "d.dcm", frame, "MONOCHROME2")
    write_dicom(folder / "cyst" / "IM0001", frame, "MONOCHROME2")
    write_volume(folder / "cyst" / "n.nii.gz", echo())
    write_volume(folder / "cyst" / "m.mhd", echo())
    with h5py.File(folder / "cyst" / "h.h5", "w") as file:
        file["images"], file["rf_mask"] = echo(), echo()
    (folder / "cyst" / "notes.doc").write_text("x")


def described(listing: Listing) -> dict[str, tuple[str, str, str]]:
    return {entry.path: (entry.dataset, entry.label, entry.split) for entry in listing.entries}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_listed_and_read_as_the_folder_that_it_is_unpacked(tmp_path: Path, kind: str) -> None:
    source, plain = tmp_path / "packed", tmp_path / "plain"
    source.mkdir()
    of_every_kind(plain / "a")
    packed(plain / "a", source / f"a{kind}")
    listing, unpacked = listed(source), listed(plain)
    inside = {path.replace(f"a{kind}::", "a/"): known for path, known in described(listing).items()}
    assert inside == {
        path: (known[0].replace("plain", "packed"), *known[1:]) for path, known in described(unpacked).items()
    }
    assert len(inside) == 8
    assert any("masks and label maps beside images were left out: 1" in note for note in listing.notes)
    assert any("ignored: 1 .doc" in note for note in listing.notes)
    shown, plainly = read_all(listing), read_all(unpacked)
    for path, frames in shown.items():
        assert np.array_equal(frames, plainly[path.replace(f"a{kind}::", "a/")])
    groups = [{entry.path.rpartition("/")[2]: entry.group for entry in one.entries} for one in (listing, unpacked)]
    assert len(set(groups[0].values())) == len(set(groups[1].values()))


def test_a_layout_in_an_archive_is_recognised_with_its_lists(tmp_path: Path) -> None:
    folder = tmp_path / "CAMUS"
    write_camus(folder / "database_nifti", "patient0001", ".nii.gz")
    write_camus(folder / "database_nifti", "patient0002", ".nii.gz", seed=1)
    (folder / "database_split").mkdir()
    (folder / "database_split" / "subgroup_training.txt").write_text("patient0001\n")
    (folder / "database_split" / "subgroup_testing.txt").write_text("patient0002\n")
    archive = packed(tmp_path / "CAMUS", tmp_path / "CAMUS.zip")
    listing = listed(archive)
    assert len(listing.entries) == 6
    assert {(entry.group, entry.split) for entry in listing.entries} == {
        ("patient0001", "train"),
        ("patient0002", "test"),
    }
    assert "is read as CAMUS: 6 files" in listing.notes[0]
    assert {len(frames) for frames in read_all(listing).values()} == {1, 5}


def test_a_list_in_an_archive_that_may_hold_splits_is_not_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(echo(1)[0]).save(folder / "a.png")
    (folder / "folds.csv").write_text("image,fold\na,train\n")
    with pytest.raises(UsageError, match=r"folds\.csv"):
        listed(packed(folder, tmp_path / "a.zip"))
    (folder / "folds.csv").rename(folder / "manifest.csv")
    (folder / "manifest.csv").write_text("path,split,patient\na.png,test,p7\n")
    (entry,) = listed(packed(folder, tmp_path / "a.zip")).entries
    assert (entry.path, entry.split, entry.group) == ("a.zip::a.png", "test", "p7")


def refusal(archive: Path) -> str:
    with pytest.raises(SourceError) as caught:
        read_all(listed(archive.parent))
    return str(caught.value)


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../out.png"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    assert "which leads out of it" in refusal(tmp_path / "a.zip")


def test_what_can_not_be_read_of_an_archive_is_said(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(echo(1)[0]).save(buffer, "PNG")
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", buffer.getvalue())
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "can't be read as an archive" in refusal(file)
    file.write_bytes(whole.replace(b"IDAT", b"IDXT", 1))
    assert "Bad CRC-32" in refusal(file)
    locked = bytearray(whole)
    locked[6] |= 1
    locked[whole.index(b"PK\1\2") + 8] |= 1
    file.write_bytes(locked)
    assert "locked by a password" in refusal(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inner.zip", whole)
    assert "an archive within an archive" in refusal(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.doc", b"x")
    with pytest.raises(UsageError, match="no file in it is of a kind that is read"):
        listed(file)


@pytest.mark.parametrize("kind", ["", "gz", "xz"])
@pytest.mark.parametrize("last", ["z.npz", "z.xlsx", "z.zip"])
def test_a_tar_that_ends_with_a_zip_is_still_a_tar(tmp_path: Path, last: str, kind: str) -> None:
    """A table of Excel or arrays of NumPy are zips; no other member may be lost for one."""
    inner, image = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as opened:
        opened.writestr("inner.png", b"x")
    Image.fromarray(echo(1)[0]).save(image, "PNG")
    file = tmp_path / f"a.tar{kind and f'.{kind}'}"
    how: dict[str, Any] = {"mode": f"w:{kind}", **({"compresslevel": 0} if kind == "gz" else {})}
    with tarfile.open(file, **how) as tar:
        for name, data in (("a.png", image.getvalue()), (last, inner.getvalue())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with Archive(file) as archive:
        assert sorted(archive.sizes()) == ["a.png", last]
    assert "a.png" in {entry.path.partition("::")[2] for entry in listed(file).entries}


def test_a_zip_that_unpacks_itself_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as opened:
        opened.writestr("a.png", b"x")
    file = tmp_path / "a.zip"
    file.write_bytes(b"#!/bin/sh\nexit\n" + (tmp_path / "b.zip").read_bytes())
    with Archive(file) as archive:
        assert archive.sizes() == {"a.png": 1}


def test_a_member_that_claims_more_than_its_archive_can_hold_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", bytes(1 << 20))
    data = (
        (tmp_path / "a.zip").read_bytes().replace((1 << 20).to_bytes(4, "little"), (1 << 40 >> 9).to_bytes(4, "little"))
    )
    (tmp_path / "a.zip").write_bytes(data)
    assert "bytes of samples, which its" in refusal(tmp_path / "a.zip")


def with_links(archive: Path) -> Path:
    """Write an image with a soft and a hard link to it, and a link out of the archive; a zip has no hard ones."""
    buffer = io.BytesIO()
    Image.fromarray(echo(1)[0]).save(buffer, "PNG")
    soft = [("d/soft.png", "../a.png"), ("d/latest", "e"), ("out.png", "/etc/hostname")]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("a.png", buffer.getvalue())
            for name, target in soft:
                link = zipfile.ZipInfo(name)
                link.create_system, link.external_attr = 3, 0o120777 << 16
                opened.writestr(link, target)
        return archive
    with tarfile.open(archive, "w") as tar:
        file = tarfile.TarInfo("./a.png")
        file.size = len(buffer.getvalue())
        tar.addfile(file, io.BytesIO(buffer.getvalue()))
        for kind, name, target in [(tarfile.LNKTYPE, "hard.png", "a.png")] + [(tarfile.SYMTYPE, *one) for one in soft]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return archive


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_links_within_an_archive_are_followed_and_others_are_named(tmp_path: Path, kind: str) -> None:
    archive = with_links(tmp_path / f"a{kind}")
    listing = listed(archive)
    names = [entry.path.partition("::")[2] for entry in listing.entries]
    assert names == ["a.png", "d/soft.png", *([] if kind == ".zip" else ["hard.png"]), "out.png"]
    assert any("ignored: 1" in note for note in listing.notes)  # a link to a folder
    found = read_all(replace(listing, entries=listing.entries[:-1]))
    assert all(np.array_equal(frames, echo(1)) for frames in found.values())
    with pytest.raises(SourceError, match=r"out\.png is a link to '/etc/hostname', which is no file of the archive"):
        read_all(listing)
