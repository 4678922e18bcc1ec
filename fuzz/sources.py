"""Targets that read a source's file as a build does: plain files, archives, folders of arrays."""

from __future__ import annotations

import contextlib
import io
import struct
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from fuzz.mutate import NASTY, mutate_bytes
from usjepa.cache.errors import UsjepaError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.sources.files.describing import images_in
from usjepa.cache.sources.files.reader import SourceReader

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Target:
    """One parser."""

    name: str
    share: float
    """Of all inputs."""
    make: Callable[[Random], bytes]
    """A new input."""
    run: Callable[[bytes], None]
    """Give it to the parser."""


def source_target(seed: Path, kind: str, share: float, inside: str = "") -> Target:
    """Return a target that changes bytes of a file and reads it, or an image within it."""
    original = seed.read_bytes()
    keep = 140 if kind == "dicom" else 4 if kind in ("nifti", "metaimage", "nrrd") else 12
    place = Path(tempfile.mkdtemp(dir=seed.parent)) / seed.name
    reader, path = SourceReader(place.parent, CacheSettings()), f"{place.name}{inside}"

    def run(data: bytes) -> None:
        place.write_bytes(data)
        facts = reader.probe(path, kind)
        for image in reader.frames(path, kind, range(min(facts.frames, 3)), reader.content_hash(path, kind)):
            assert image.dtype == np.uint8

    return Target(f"{kind} ({seed.suffix})", share, lambda rng: mutate_bytes(rng, original, keep), run)


def write_archive(place: Path, member: Path) -> Path:
    """Pack a file into a zip or tar, by the ending of its place."""
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            archive.write(member, f"cyst/{member.name}")
    else:
        with tarfile.open(place, "w:gz") as tar:
            tar.add(member, f"cyst/{member.name}")
    return place


def repacked(seed: Path, kind: str, inside: str) -> Target:
    """A member of a zip is changed and packed again, so that its checksum is right."""
    plain = source_target(seed, kind, 0.005, f"::{inside}")
    with zipfile.ZipFile(seed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def make(rng: Random) -> bytes:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name, data in members.items():
                archive.writestr(name, mutate_bytes(rng, data, 6))
        return packed.getvalue()

    return Target(f"{kind} (repacked members)", 0.005, make, plain.run)


def members(place: Path) -> Target:
    """Names and links of any kind in a zip or tar, which is listed and opened."""
    names = [text for text in NASTY if isinstance(text, str) and "\ud800" not in text] + [
        "a.png",
        "d/a.png",
        "d\\a.png",
        "./a",
        "a::b",
        "\n",
    ]
    kinds = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)

    def make(rng: Random) -> bytes:
        packed = io.BytesIO()
        chosen = [(rng.choice(names) or "x", rng.choice(names), rng.choice(kinds)) for _ in range(rng.randrange(1, 6))]
        if rng.random() < 0.5:
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for name, target, kind in chosen:
                    member = tarfile.TarInfo(name)
                    member.type, member.linkname = kind, target
                    tar.addfile(member)
            return packed.getvalue()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, target, kind in chosen:
                one = zipfile.ZipInfo(name)
                one.create_system = 3
                one.external_attr = 0o120777 << 16 if kind == tarfile.SYMTYPE else 0
                archive.writestr(one, target.encode(errors="replace"))
        return packed.getvalue()

    def run(data: bytes) -> None:
        place.write_bytes(data)
        for name in images_in(place, "archive").images:
            reader = SourceReader(place.parent, CacheSettings())
            with contextlib.suppress(UsjepaError):
                reader.probe(f"{place.name}::{name}", "archive")

    return Target("archive (names and links)", 0.005, make, run)


def zarr_folder(seed: Path, clip: NDArray[np.uint8]) -> Target:
    """One file of a folder of Zarr is changed, then it is read as a source."""
    zarr.create_array(seed, shape=clip.shape, chunks=(1, *clip.shape[1:]), dtype=clip.dtype)[...] = clip
    files = sorted(path for path in seed.rglob("*") if path.is_file())
    originals = {path: path.read_bytes() for path in files}
    path = f"{seed.name}::array"

    def make(rng: Random) -> bytes:
        at = rng.choice((0, rng.randrange(len(files))))
        return struct.pack("<I", at) + mutate_bytes(rng, originals[files[at]], 0)

    def run(data: bytes) -> None:
        changed = files[struct.unpack("<I", data[:4])[0]]
        changed.write_bytes(data[4:])
        reader = SourceReader(seed.parent, CacheSettings())
        try:
            facts = reader.probe(path, "zarr")
            list(reader.frames(path, "zarr", range(min(facts.frames, 3)), reader.content_hash(path, "zarr")))
        finally:
            changed.write_bytes(originals[changed])

    return Target("zarr (a folder)", 0.005, make, run)
