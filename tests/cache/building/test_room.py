"""A build that can't end for want of space or inodes never begins; one that runs out all the same loses nothing."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.support.builds import SMALL, small, tree
from usjepa.cache.building import disk_space as room
from usjepa.cache.building.build import build
from usjepa.cache.building.disk_space import check_room, need_of_build, need_of_shards
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.errors import WriteError
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount file systems of a given size; skips where this user may not."""
    mounted: list[Path] = []

    def mount(**limits: int) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        options = ",".join(f"{name}={value}" for name, value in limits.items())
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"can't mount a small file system here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    try:
        yield mount
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=True)


def space_of(root: Path) -> int:
    """Bytes of the blocks that a store's files take."""
    return sum(p.lstat().st_blocks * 512 for p in root.rglob("*") if p.is_file())


def needed(root: Path, done: dict[str, set[int]] | None = None) -> room.Need:
    writer = StoreWriter(LocalStorage(root))
    writer.attach()
    layers = list(writer.state.layers.values())
    return need_of_build(writer.state, layers, {layer.name: (done or {}).get(layer.name, set()) for layer in layers})


def test_the_need_is_what_a_build_writes(small_store: Path) -> None:
    need = needed(small_store)
    written = [p for p in small_store.rglob("*") if p.is_file() and p.parts[-2] != "000001" and p.name != "zarr.json"]
    taken = sum(p.lstat().st_blocks * 512 for p in written)
    assert taken <= need.nbytes <= 1.2 * taken + 4 * 4096
    assert len(written) <= need.files <= len(written) + 3


def test_only_what_is_still_to_be_written_counts(small_store: Path) -> None:
    all_done = {name: {0, 1, 2} for name in open_store(small_store).layers}
    assert needed(small_store, all_done) == room.Need(0, 0)
    one_left = {**all_done, "pixels": {0, 2}}
    assert 0 < needed(small_store, one_left).nbytes < needed(small_store).nbytes / 3


def test_a_build_that_does_not_fit_is_refused_before_the_first_shard(disk: Callable[..., Path]) -> None:
    place = disk(size=96 << 10)
    with pytest.raises(WriteError, match=r"[\d,]+ bytes are still to be written and [\d,]+ are free.*Free some space"):
        build(str(place / "s"), small(), BuildRequest(teacher="random"))
    assert not list((place / "s").rglob("c.*"))
    assert not (place / "s/claims").exists()


def test_a_build_for_which_inodes_do_not_suffice_is_refused_and_told_of_larger_shards(
    disk: Callable[..., Path],
) -> None:
    place = disk(size=8 * MIB, nr_inodes=24)
    with pytest.raises(WriteError, match=r"files are still to be made and \d+ inodes are free.*rows_per_shard"):
        build(str(place / "s"), small(), BuildRequest(teacher="random"))
    assert not list((place / "s").rglob("c.*"))


def test_a_build_that_just_fits_is_not_refused(disk: Callable[..., Path], small_store: Path) -> None:
    place = disk(size=needed(small_store).nbytes + 96 * 1024)
    build(str(place / "s"), small(), BuildRequest(teacher="random"))
    assert tree(place / "s") == tree(small_store)


def test_a_disk_that_fills_up_mid_build_ends_in_one_message_and_goes_on_once_there_is_room(
    disk: Callable[..., Path], small_store: Path
) -> None:
    place = disk(size=2 * MIB)
    ballast = place / "ballast"
    ballast.write_bytes(bytes(2 * MIB - space_of(small_store) * 2 // 3 // 4096 * 4096))
    sets = [part for item in SMALL for part in ("--set", item)]
    command = ["build", str(place / "s"), "--pipeline", "demo", "--teacher", "random", *sets]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1
    assert "bytes are still to be written" in refused.stderr
    failed = CliRunner().invoke(main, [*command, "--no-space-check"])
    assert failed.exit_code == 1
    assert len([line for line in failed.stderr.splitlines() if "no room for" in line]) == 1
    assert "free some space and run the same command again" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert list((place / "s").rglob("c.*")), "it had begun"
    assert not list((place / "s").rglob("*.tmp"))
    ballast.unlink()
    assert CliRunner().invoke(main, command).exit_code == 0
    assert tree(place / "s") == tree(small_store)


class Told:
    """What statvfs answers, with some fields replaced: the operating system's boundary."""

    def __init__(self, **fields: int) -> None:
        self.fields, self.asked = fields, list[str]()

    def __call__(self, path: object) -> object:
        self.asked.append(str(path))
        names = ("f_bavail", "f_frsize", "f_files", "f_favail")
        real = {name: getattr(_REAL_STATVFS(str(path)), name) for name in names}
        return type("statvfs", (), {**real, **self.fields})


_REAL_STATVFS = os.statvfs


def test_the_nearest_existing_folder_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(f_bavail=3, f_frsize=512, f_files=10, f_favail=7)
    monkeypatch.setattr(os, "statvfs", told)
    assert room.room_at(tmp_path / "not" / "there") == room.Room(3 * 512, 7)
    assert told.asked == [str(tmp_path)]


def test_a_file_system_without_inode_limit_is_not_held_against_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", Told(f_files=0, f_favail=0))
    check_room(LocalStorage(tmp_path), need_of_shards([(1000, 10)]))
    monkeypatch.setattr(os, "statvfs", Told(f_files=10, f_favail=0))
    with pytest.raises(WriteError, match="0 inodes are free"):
        check_room(LocalStorage(tmp_path), need_of_shards([(1000, 10)]))


def test_a_file_system_that_lies_is_overruled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", Told(f_bavail=0))
    with pytest.raises(WriteError, match="--no-space-check"):
        build(str(tmp_path / "s"), small())
    assert build(str(tmp_path / "s"), small(), BuildRequest(space_check=False)) is not None


def test_object_storage_has_no_limit_and_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", Told(f_bavail=0))
    check_room(open_storage("memory:///"), need_of_shards([(1000, 10)]))
