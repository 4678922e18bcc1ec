"""The `usjepa-cache` command ends every mistake with one readable message and the right exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from tests.support.files.damage import flip
from tests.support.processes.commands import run_python
from tests.support.stores import write_store
from usjepa.cache.cli import main
from usjepa.cache.storage.durable import TEMP_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def refused(result: Result, code: int, *parts: str) -> None:
    """The exit code is right, the message says these parts, and no traceback is shown."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert any(line.startswith("error: ") for line in result.stderr.splitlines()), result.stderr
    for part in parts:
        assert part in result.stderr


def test_a_missing_source_is_wrong_use(tmp_path: Path) -> None:
    result = run("build", str(tmp_path / "s"), "--pipeline", "demo", "--source", str(tmp_path / "none"))
    refused(result, 2, "no such file or folder")


def test_an_empty_folder_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    refused(run("scan", str(tmp_path / "in")), 2, "no file in it is of a kind that is read", "DICOM")


def test_a_text_file_named_png_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/note.png").write_text("hello")
    result = run("build", str(tmp_path / "s"), "--pipeline", "demo", "--source", str(tmp_path / "in"))
    refused(result, 1, "note.png")


def test_build_without_a_pipeline_lists_them(tmp_path: Path) -> None:
    refused(run("build", str(tmp_path / "s")), 2, "--pipeline NAME", "us-jepa, usrc-jepa, demo")


def test_an_unknown_pipeline_and_key_are_named(tmp_path: Path) -> None:
    refused(run("build", str(tmp_path / "s"), "--pipeline", "dmo"), 2, "no recipe 'dmo'", "'demo'")
    refused(run("build", str(tmp_path / "s"), "--pipeline", "demo", "--set", "cache.view=2"), 2, "did you mean 'views'")
    assert not (tmp_path / "s").exists()


def test_an_unwritable_target_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(run("build", str(tmp_path / "file/s"), "--pipeline", "demo"), 1, "can't write")


def test_a_folder_of_other_things_is_never_built_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    refused(run("build", str(tmp_path), "--pipeline", "demo"), 2, "holds other files")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("command", ["status", "verify", "inspect"])
def test_what_is_no_store_is_said(tmp_path: Path, command: str) -> None:
    more = ["-o", str(tmp_path / "x.png")] if command == "inspect" else []
    refused(run(command, str(tmp_path / "none"), *more), 2, "no store here")


@pytest.mark.parametrize("form", ["{}", "file://{}"])
@pytest.mark.parametrize("command", [
    "seal", "gc", "gc --dry-run", "remove --group x", "remove --group x --dry-run", "convert --precision int8",
    "verify --repair --pipeline demo", "audit --teacher random --pipeline demo",
])  # fmt: skip
def test_a_mistyped_store_is_refused_and_nothing_there_is_touched(tmp_path: Path, command: str, form: str) -> None:
    write_store(tmp_path / "up/s", 4)
    in_hand = tmp_path / f"up/s/pixels/.c.0.{'0' * 32}{TEMP_SUFFIX}"
    in_hand.write_bytes(b"of a live writer")
    before = sorted(tmp_path.rglob("*"))
    name, *more = command.split()
    for place in ("up", "none", "deep/none"):
        refused(run(name, form.format(tmp_path / place), *more), 2, "no store here")
        assert sorted(tmp_path.rglob("*")) == before


def test_an_unsealed_store_has_nothing_to_verify(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4, seal=False)
    refused(run("verify", str(tmp_path / "s")), 2, "not sealed")


def test_verify_ends_with_3_and_a_line_for_each_damage(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10)
    assert run("verify", str(tmp_path / "s")).exit_code == 0
    shard = tmp_path / "s/pixels/c.1.0.0.0"
    flip(shard, 5)
    result = run("verify", str(tmp_path / "s"))
    assert result.exit_code == 3
    assert "row 4" in result.output
    assert "1 damaged" in result.output


def test_recipe_lists_and_prints() -> None:
    assert "usrc-jepa" in run("recipe").output
    assert "lr: 0.0003" in run("recipe", "demo", "--set", "train.lr=3e-4").output


def test_scan_of_the_phantom_tells_frames_groups_and_labels() -> None:
    result = run(
        "scan", "phantom", "--set", "cache.phantom.patients=4", "--set", "cache.phantom.frames_per_patient=5",
        "--set", "cache.phantom.size=64",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "20 decoded frames" in result.output
    assert "stone" in result.output


@pytest.mark.slow
def test_a_log_gets_plain_lines_without_a_bar(tmp_path: Path) -> None:
    command = ["-m", "usjepa.cache.cli", "build", tmp_path / "s", "--pipeline", "demo"]
    sets = (
        "cache.phantom.patients=1",
        "cache.phantom.frames_per_patient=5",
        "cache.phantom.size=64",
        "cache.image_size=32",
    )
    done = run_python(*command, *(part for item in sets for part in ("--set", item)))
    assert "\r" not in done.stderr
    assert "build: 5 of 5 rows" in done.stderr
    assert "sealed: generation 1, 5 rows" in done.stderr
