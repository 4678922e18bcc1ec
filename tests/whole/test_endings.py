"""Whatever the system refuses, a command ends with one line (what, where, what to do) and the right exit code."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import zipfile
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.builds import pictures, tree
from tests.support.endings import (
    DEMO,
    TINY,
    drop_privileges,
    ending,
    forbidden,
    lose_streams,
    one_line,
    permissions_can_hold,
    write_to,
)
from tests.support.processes.commands import run_python
from tests.support.runs import recipe
from usjepa.train.record.folder import RunFolder
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path

FAST = ("--set", "evaluate.seeds=1", "--set", "evaluate.epochs=1", "--set", "evaluate.bootstrap=100")
CACHE = "from usjepa.cache.cli import main; main(prog_name='usjepa-cache')"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, phantom_store: Path) -> Path:
    """A folder with a store, and a run on it that is finished."""
    place = tmp_path_factory.mktemp("endings")
    shutil.copytree(phantom_store, place / "s.zarr")
    train(str(place / "s.zarr"), str(place / "run"), recipe("train.epochs=1", "train.warmup_epochs=0"))
    pictures(place / "frames", ["patients/1.png"])
    return place


# --- permissions


EVALUATE = ("usjepa-evaluate", "run", "--task", "s.zarr", *FAST)


@pytest.mark.skipif(not permissions_can_hold(), reason="root, whose capabilities can't be dropped here")
@pytest.mark.parametrize(
    ("path", "command"),
    [
        pytest.param("s.zarr", ("usjepa-cache", "status", "s.zarr"), id="a store"),
        pytest.param("s.zarr/segments", ("usjepa-cache", "status", "s.zarr"), id="its segments"),
        pytest.param("s.zarr/segments", ("usjepa-cache", "verify", "s.zarr"), id="its segments, verified"),
        pytest.param("s.zarr/manifest.json", ("usjepa-cache", "build", "s.zarr", *TINY), id="its manifest"),
        pytest.param("s.zarr/latents/demo", ("usjepa-cache", "stats", "s.zarr"), id="a layer"),
        pytest.param("s.zarr", ("usjepa-train", "s.zarr", "new", *TINY), id="a store that is trained on"),
        pytest.param("run/state", ("usjepa-train", "s.zarr", "run", *TINY), id="checkpoints"),
        pytest.param("run/model.safetensors", EVALUATE, id="an encoder"),
        pytest.param("run/config.json", EVALUATE, id="an encoder's configuration"),
        pytest.param("run/recipe.json", EVALUATE, id="a run's recipe"),
        pytest.param("run/model.safetensors", ("usjepa-cache", "build", "n", *DEMO, "--teacher", "run"), id="teacher"),
        pytest.param("frames/patients", ("usjepa-cache", "scan", "frames"), id="a source folder"),
    ],
)
def test_a_permission_that_lacks_is_called_one(stage: Path, path: str, command: tuple[str, ...]) -> None:
    with forbidden(stage / path):
        found = ending(*command, within=stage, before=drop_privileges)
    one_line(found, 1, path.split("/")[-1], "ermission")
    assert not (stage / "n").exists()
    assert not (stage / "new").exists()


@pytest.mark.skipif(not permissions_can_hold(), reason="root, whose capabilities can't be dropped here")
def test_a_folder_that_may_not_be_written_is_named_before_the_work(stage: Path) -> None:
    (stage / "closed").mkdir()
    with forbidden(stage / "closed", 0o555):
        for command in (
            ("usjepa-cache", "build", "closed/s", *DEMO),
            ("usjepa-train", "s.zarr", "closed/run", *TINY),
            ("usjepa-cache", "stats", "s.zarr", "-o", "closed/stats.json"),
            ("usjepa-evaluate", "run", "--task", "s.zarr", "-o", "closed/report", *FAST),
        ):
            one_line(ending(*command, within=stage, before=drop_privileges), 1, "closed/", "ermission")


# --- what lies where a store should


@pytest.fixture(scope="module")
def things(stage: Path) -> Path:
    """One of each kind of thing that is no folder."""
    (stage / "file").write_bytes(b"no store")
    with zipfile.ZipFile(stage / "s.zip", "w") as archive:
        archive.write(stage / "s.zarr/zarr.json", "s.zarr/zarr.json")
    os.mkfifo(stage / "pipe")
    (stage / "link").symlink_to("file")
    (stage / "circle").symlink_to("circle")
    return stage


@pytest.mark.parametrize(
    ("name", "word"), [("file", "a store is a folder"), ("s.zip", "unpack it"), ("pipe", "a store is a folder")]
)
@pytest.mark.parametrize("command", ["build", "status", "verify", "stats", "seal", "train"])
def test_a_file_in_place_of_a_store_is_said_to_be_one(things: Path, command: str, name: str, word: str) -> None:
    words = ("usjepa-train", name, "new", *TINY) if command == "train" else ("usjepa-cache", command, name)
    found = ending(*words, *(DEMO if command == "build" else ()), within=things)
    one_line(found, 2, name, word)


def test_a_circle_of_links_and_a_name_that_is_too_long_are_messages(things: Path) -> None:
    for name in ("circle", "x" * 300):
        for words in (
            ("usjepa-cache", "build", name, *DEMO),
            ("usjepa-cache", "status", name),
            ("usjepa-cache", "build", "n", "--source", name, *DEMO),
            ("usjepa-train", "s.zarr", name, *TINY),
            ("usjepa-evaluate", "run", "--task", name),
            ("usjepa-evaluate", "compare", name, "run"),
        ):
            found = ending(*words, within=things)
            one_line(found, found.code, name)
            assert found.code in (1, 2)
    assert not (things / "n").exists()


# --- results never replace what is not theirs


@pytest.mark.parametrize("name", ["pipe", "link", "circle", "s.zarr"])
def test_a_result_replaces_no_link_pipe_or_folder(things: Path, name: str) -> None:
    before = os.lstat(things / name)
    (things / "scores.json").write_text("{}")
    for words in (
        ("usjepa-cache", "stats", "s.zarr", "-o", name),
        ("usjepa-evaluate", "compare", "scores.json", "scores.json", "--json", name),
    ):
        found = ending(*words, within=things)
        assert found.code == 2, found.told
        assert name in found.told
    now = os.lstat(things / name)
    assert (now.st_ino, now.st_mode, now.st_nlink) == (before.st_ino, before.st_mode, before.st_nlink)
    assert (things / "file").read_bytes() == b"no store"


def test_a_result_replaces_no_device_and_no_socket(stage: Path) -> None:
    # A device of the test's own: root, without the check, would replace the machine's /dev/null.
    with contextlib.suppress(PermissionError):
        os.mknod(stage / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(stage / "socket"))
        for name in ("null", "socket") if (stage / "null").exists() else ("socket",):
            before = os.lstat(stage / name)
            one_line(ending("usjepa-cache", "stats", "s.zarr", "-o", name, within=stage), 2, name, "not replaced")
            assert os.lstat(stage / name).st_ino == before.st_ino


def test_a_report_is_not_written_over_a_folder_of_other_things(stage: Path) -> None:
    (stage / "site").mkdir()
    (stage / "site/index.html").write_text("my page")
    words = ("usjepa-evaluate", "run", "--task", "s.zarr", "-o", "site", *FAST)
    one_line(ending(*words, within=stage), 2, "index.html", "new folder")
    assert [path.name for path in (stage / "site").iterdir()] == ["index.html"]


def test_a_training_does_not_write_over_a_folder_of_other_things(stage: Path) -> None:
    (stage / "project").mkdir()
    (stage / "project/README.md").write_text("mine")
    one_line(ending("usjepa-train", "s.zarr", "project", *TINY, within=stage), 2, "README.md", "new folder")
    assert tree(stage / "project") == {"README.md": b"mine"}


def test_a_build_into_a_folder_of_other_things_touches_nothing_in_it(stage: Path) -> None:
    home = stage / "home"
    (home / "work").mkdir(parents=True)
    (home / "work/.draft.tmp").write_text("mine")
    (home / f"work/.draft.{'0' * 32}.tmp").write_text("mine")
    before = tree(home)
    for command in ("build", "seal", "verify"):
        more = DEMO if command == "build" else (*DEMO, "--repair") if command == "verify" else ()
        found = ending("usjepa-cache", command, "home", *more, within=stage)
        one_line(found, 2, "home")
        assert tree(home) == before


def test_a_run_or_a_result_behind_a_url_is_refused_and_no_folder_of_that_name_is_made(stage: Path) -> None:
    for words in (
        ("usjepa-train", "s.zarr", "file:///run", *TINY),
        ("usjepa-train", "s.zarr", "s3://bucket/run", *TINY),
        ("usjepa-cache", "stats", "s.zarr", "-o", "s3://bucket/stats.json"),
        ("usjepa-evaluate", "run", "--task", "s.zarr", "-o", "file:///report", *FAST),
    ):
        one_line(ending(*words, within=stage), 2, "URL")
    assert not [path for path in stage.iterdir() if ":" in path.name]


# --- streams


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(partial(lose_streams, 2), id="stderr closed", marks=pytest.mark.slow),
        pytest.param(partial(lose_streams, 0, 1, 2), id="all closed"),
        pytest.param(partial(write_to, "/dev/full", 2), id="a log on a full disk"),
        pytest.param(partial(write_to, "", 1, 2), id="a reader that has left", marks=pytest.mark.slow),
    ],
)
def test_work_is_finished_whatever_became_of_its_streams(
    stage: Path, tmp_path: Path, small_store: Path, before: partial[None]
) -> None:
    assert ending("usjepa-cache", "build", "s", *DEMO, "--teacher", "random", within=tmp_path, before=before).code == 0
    assert tree(tmp_path / "s") == tree(small_store)
    assert ending("usjepa-cache", "verify", "s", within=tmp_path, before=before).code == 0
    (tmp_path / "s/pixels/c.0.0.0.0").write_bytes(b"")
    assert ending("usjepa-cache", "verify", "s", within=tmp_path, before=before).code == 3
    words = ("usjepa-train", stage / "s.zarr", "run", *TINY, "--stop-after-steps", "2")
    assert ending(*words, within=tmp_path, before=before).code == 0
    assert RunFolder(tmp_path / "run").checkpoints.newest(begun=True)[0].step == 2  # type: ignore[index]


def test_a_reader_that_has_seen_enough_gets_no_error() -> None:
    shell = f'set -o pipefail; "$0" -c "{CACHE}" recipe us-jepa | head -1'
    done = subprocess.run(["bash", "-c", shell, sys.executable], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_a_result_on_a_full_disk_is_an_error_and_a_message(tmp_path: Path) -> None:
    for words in (["recipe", "demo"], ["--help"]):
        with open("/dev/full", "w") as full:
            done = run_python("-c", CACHE, *words, stdout=full, code=1)
        assert done.stderr == (
            "error: standard output: No space left on device. Free some space and run the same command again.\n"
        )


def test_no_file_of_a_store_is_opened_under_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    script = (
        "import os; from usjepa.cache.terminal.streams import use_safe_streams; use_safe_streams();"
        f"os.write(3, str(os.open({str(tmp_path / 'x')!r}, os.O_CREAT | os.O_WRONLY)).encode())"
    )
    found = subprocess.run(
        ["bash", "-c", f'"$0" -c "{script}" 3>&1 <&- >&- 2>&-', sys.executable], capture_output=True, text=True
    )
    assert int(found.stdout) > 3
