"""A local file is published durably and whole, or not at all; refusals of the system say what to do."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from tests.support.processes import forked
from usjepa.cache.errors import DamageError, StoreError, WriteError
from usjepa.cache.storage.durable import publish_folder, write_durably
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.location import open_storage


def test_a_file_is_synced_before_the_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(handle: int) -> None:
        events.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "fsync file")
        fsync(handle)

    def spy_replace(old: object, new: object) -> None:
        events.append("rename")
        replace(old, new)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    LocalStorage(tmp_path).publish("a", b"data")
    assert events == ["fsync file", "rename", "fsync folder"]


@pytest.mark.parametrize("name", ["fsync", "replace", "write", "close"])
def test_an_error_at_any_step_is_raised_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    storage = LocalStorage(tmp_path)
    storage.publish("a", b"old")

    def fail(*args: object) -> None:
        if name == "close":
            real_close(args[0])  # type: ignore[arg-type]
        raise OSError(5, "Input/output error")

    real_close = os.close
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(WriteError, match=r"a: can't write \(Input/output error\)"):
            storage.publish("a", b"new")
    assert storage.read("a") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_names_the_path_and_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WriteError, match=r"big: no room for 2,000 bytes \(No space left on device\)"):
        LocalStorage(tmp_path).publish("big", bytes(2000))


def _write_beyond_limit(path: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_durably(Path(path), bytes(5000))
    except WriteError as error:
        raise SystemExit(42 if "no room for 5,000 bytes" in str(error) else 43) from error


def test_a_real_limit_on_file_size_is_said_and_leaves_no_litter(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"old")
    assert forked.run(_write_beyond_limit, str(tmp_path / "a")) == 42
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_names_that_leave_the_store_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(StoreError, match="leaves the store"):
        LocalStorage(tmp_path / "store").read(name)


def test_a_symbolic_link_in_a_store_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError, match="symbolic link"):
        LocalStorage(tmp_path / "store").read("a")


def test_a_folder_that_is_a_symbolic_link_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text("x")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "pixels").symlink_to(tmp_path / "outside")
    storage = LocalStorage(tmp_path / "store")
    with pytest.raises(StoreError, match="symbolic link"):
        storage.read("pixels/a")
    for write in (storage.publish, storage.create):
        with pytest.raises(StoreError, match="symbolic link"):
            write("pixels/b", b"y")
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["a"]


def test_a_pipe_in_a_store_does_not_hang_its_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(StoreError, match="not a regular file"):
        LocalStorage(tmp_path).read("manifest.json")


def test_a_description_of_absurd_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamageError, match="not plausible"):
        LocalStorage(tmp_path).read("manifest.json")


class _Share:
    """A network share that fails a few times before it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: int, number: int) -> None:
        self.left, self.number, self.real = failures, number, os.open
        monkeypatch.setattr(os, "open", self.open)

    def open(self, path: object, *args: object, **kwargs: object) -> int:
        if self.left and str(path).endswith("a"):
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number))
        return self.real(path, *args, **kwargs)  # type: ignore[arg-type]


def test_a_stale_handle_of_a_share_is_opened_again_and_one_that_stays_stale_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"content")
    _Share(monkeypatch, 2, errno.ESTALE)
    assert LocalStorage(tmp_path).read("a") == b"content"
    _Share(monkeypatch, 9, errno.ESTALE)
    with pytest.raises(StoreError, match="can't be read"):
        LocalStorage(tmp_path).read("a")


def test_any_other_refusal_to_read_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"content")
    share = _Share(monkeypatch, 1, errno.EIO)
    with pytest.raises(StoreError, match=r"a: can't be read \(Input/output error\)"):
        LocalStorage(tmp_path).read("a")
    assert share.left == 0


def test_only_one_of_two_creates_the_same_file(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert storage.create("claims/a", b"mine")
    assert not storage.create("claims/a", b"yours")
    assert storage.read("claims/a") == b"mine"
    storage.delete("claims/a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", ["create", "publish"])
def test_a_folder_that_another_process_empties_and_removes_just_then_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    storage, real, builds = LocalStorage(tmp_path), os.open, ["the other builder"]
    storage.create("claims/theirs", b"theirs")

    def late(path: object, *args: object, **kwargs: object) -> int:
        if builds and "mine" in str(path):
            builds.clear()
            storage.delete("claims/theirs")
            assert not (tmp_path / "claims").exists()
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", late)
    getattr(storage, write)("claims/mine", b"mine")
    assert (storage.names("claims"), storage.read("claims/mine")) == (["mine"], b"mine")


def test_a_folder_that_can_not_be_made_is_an_error_and_not_tried_without_end(tmp_path: Path) -> None:
    (tmp_path / "claims").symlink_to(tmp_path / "gone")
    with pytest.raises(WriteError, match=r"mine: can't write \(No such file or directory\)"):
        write_durably(tmp_path / "claims/mine", b"mine")


def test_sweeping_removes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.publish("pixels/c.0", b"x")
    (tmp_path / "pixels" / f".c.1.{'0123' * 8}.tmp").write_bytes(b"half")
    (tmp_path / "pixels" / ".draft.tmp").write_bytes(b"a person's own")
    assert storage.names("pixels") == ["c.0"]
    assert storage.sweep() == 1
    assert sorted(p.name for p in (tmp_path / "pixels").iterdir()) == [".draft.tmp", "c.0"]


def _publish(folder: Path, text: str, at: int = 0) -> None:
    if at:
        forked.die_at_durable_step(at)

    def fill(temp: Path) -> None:
        for name in ("one", "two"):
            write_durably(temp / name, text.encode())

    publish_folder(folder, fill)


def test_a_folder_killed_at_any_step_while_it_is_replaced_is_the_old_the_new_or_for_an_instant_none(
    tmp_path: Path,
) -> None:
    """Steps: its temp folder 1, its files 2 to 7, old aside 8, new in place 9, its parent 10."""
    found = []
    for at in range(1, 11):
        folder = tmp_path / str(at) / "it"
        _publish(folder, "old")
        assert forked.run(_publish, folder, "new", at) == -9
        found.append({path.name: path.read_text() for path in folder.glob("*")})
        _publish(folder, "next")
        assert {path.read_text() for path in folder.iterdir()} == {"next"}
    old, new = ({"one": text, "two": text} for text in ("old", "new"))
    assert found == [*[old] * 8, {}, new]


def test_a_folder_that_can_not_be_filled_leaves_the_old_one_and_no_litter(tmp_path: Path) -> None:
    def fill(temp: Path) -> None:
        write_durably(temp / "one", b"new")
        raise WriteError("full")

    _publish(tmp_path / "it", "old")
    with pytest.raises(WriteError, match="full"):
        publish_folder(tmp_path / "it", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert {path.read_text() for path in (tmp_path / "it").iterdir()} == {"old"}
