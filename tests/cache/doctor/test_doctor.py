"""The doctor says what lacks, what is slow, and changes nothing."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from packaging.requirements import Requirement

from tests.support.builds import tree
from usjepa.cache.cli import main
from usjepa.cache.doctor import machine, packages, place
from usjepa.cache.doctor.finding import Finding, size_text

ROOT = Path(__file__).parents[3]
NAMES = ["usjepa", "versions", "packages", "processors", "open files", "room", "large files", "small files"]


@pytest.fixture(autouse=True)
def small_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "NBYTES", 1 << 20)


def doctor(*words: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, words)])


def line_of(result: Result, what: str) -> str:
    return next(line for line in result.output.splitlines() if f"  {what} " in line)


def test_one_screen_names_versions_limits_room_and_speed_and_leaves_the_folder_as_it_was(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").write_text("mine")
    before = tree(tmp_path)
    done = doctor(tmp_path)
    assert done.exit_code == 0, done.output
    assert all(line_of(done, name) for name in NAMES)
    assert f"torch {metadata.version('torch')}" in line_of(done, "versions")
    assert len(done.output.splitlines()) <= 24
    assert tree(tmp_path) == before


def test_a_folder_that_is_yet_to_be_made_is_judged_by_the_one_above(tmp_path: Path) -> None:
    assert str(tmp_path) in line_of(doctor(tmp_path / "new/store.zarr"), "room")
    assert not (tmp_path / "new").exists()


def test_a_package_that_lacks_or_is_too_old_is_named_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = [*metadata.requires("usjepa"), "nosuchthing>=3", "click>=999"]  # type: ignore[misc]
    monkeypatch.setattr(metadata, "requires", lambda _: asked)
    done = doctor(tmp_path)
    assert done.exit_code == 1
    found = line_of(done, "packages")
    assert found.startswith("lack")
    assert f"nosuchthing is not installed; click is {metadata.version('click')}, and >=999 is needed" in found
    assert "pip install" in found


def test_an_extra_that_lacks_is_a_note_that_says_what_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "tensorboard":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    done = doctor(tmp_path)
    assert done.exit_code == 0
    assert line_of(done, "[tensorboard]").startswith("note")
    assert "tensorboard is not installed: train.tensorboard" in line_of(done, "[tensorboard]")
    assert "pip install 'usjepa[tensorboard]'" in line_of(done, "[tensorboard]")


def test_every_extra_for_users_is_known_to_the_doctor() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert extras - {"dev", "docs"} == set(packages.SERVES)


def test_requirements_of_another_system_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ['nosuchthing>=3; sys_platform == "other"', "click"])
    assert [one.name for one in packages._requirements()[0]] == ["click"]
    assert packages._fault(Requirement("click>=8")) == ""


@pytest.mark.parametrize(
    ("finding", "mark", "told"),
    [
        (machine._open_files(1024, 4096), "note", "ulimit -Hn"),
        (machine._open_files(1024, 1 << 20), "ok", "raised when needed"),
        (machine._shared_memory(64 << 20), "note", "--shm-size"),
        (machine._shared_memory(8 << 30), "ok", "8.0 GiB"),
        (machine._processors(2, 1.9), "note", "others use them"),
        (machine._processors(2, 0.1), "ok", "2 that"),
    ],
)
def test_limits_that_slow_work_down_are_noted_with_the_remedy(finding: Finding, mark: str, told: str) -> None:
    assert finding.mark == mark
    assert told in finding.found


def test_a_file_in_place_of_a_folder_and_a_folder_that_can_not_be_written_are_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = doctor(tmp_path / "file")
    assert done.exit_code == 2
    assert "a file" in done.output.splitlines()[-1]
    done = doctor("/proc/1")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("error: /proc/1: can't write")


def test_a_bucket_is_timed_by_its_requests(tmp_path: Path) -> None:
    done = doctor(f"memory://{tmp_path.name}")
    assert done.exit_code in (0, 2)
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (3 << 50, "3072.0 TiB")]
)
def test_sizes_are_shown_as_people_read_them(nbytes: int, text: str) -> None:
    assert size_text(nbytes) == text
