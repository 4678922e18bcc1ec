"""Pipes, links and odd names in a task's folder are named, or left alone; none is waited for or followed out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.builds import pictures, small
from usjepa.cache.errors import SourceError, UsageError
from usjepa.evaluate.tasks.find import open_tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two classes, in training and test."""
    names = [f"{split}/{label}/{n}.png" for split in ("train", "test") for label in "ab" for n in range(3)]
    for seed, name in enumerate(names):
        pictures(tmp_path / "task", [name], seed)
    return tmp_path / "task"


def test_pipes_beside_the_images_circles_of_links_and_long_names_do_no_harm(tmp_path: Path, folder: Path) -> None:
    for name in ("labels.csv", "instances.json", "train/splits.txt"):
        os.mkfifo(folder / name)
    (folder / "train/a/circle").symlink_to("..")
    (folder / "train/a/0.png").rename(folder / f"train/a/{'x' * 251}.png")
    (task,) = open_tasks([str(folder)], tmp_path / "out", small()).tasks
    assert task.name == "task"


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "train/a/x.png")


def _manifest(folder: Path) -> None:
    os.mkfifo(folder / "manifest.csv")


def _link_to_itself(folder: Path) -> None:
    (folder / "train/a/x.png").symlink_to("x.png")


def _link_to_a_device(folder: Path) -> None:
    (folder / "train/a/x.png").symlink_to("/dev/zero")


@pytest.mark.parametrize("harm", [_pipe, _manifest, _link_to_itself, _link_to_a_device])
def test_what_can_not_be_read_is_named(tmp_path: Path, folder: Path, harm: Callable[[Path], None]) -> None:
    harm(folder)
    with pytest.raises((SourceError, UsageError), match=r"x\.png|manifest\.csv"):
        open_tasks([str(folder)], tmp_path / "out", small())


def test_a_pipe_as_a_task_is_no_task(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a kind of file that is read"):
        open_tasks([str(tmp_path / "pipe")], tmp_path / "out", small())
