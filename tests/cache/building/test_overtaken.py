"""A builder that was stopped, overtaken and woken up changes nothing that its successor built.

The one that is stopped gets other numbers from its teacher than its successor, as another GPU might, so that whatever
it published too late would show.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.builds import small, tree
from tests.support.processes import forked
from tests.support.processes.commands import wait_until
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.storage import claims
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path


def _build_otherwise_and_stop(root: str, step: int) -> None:
    from usjepa.cache.teacher.vit import ViT

    real = ViT.__call__
    ViT.__call__ = lambda self, pixels_BCSS: real(self, pixels_BCSS) * 1.001  # type: ignore[method-assign]
    forked.signal_at_durable_step(step, signal.SIGSTOP)
    build(root, small(), BuildRequest(teacher="random"))


# Build steps come by threes (fsync of the file, rename, fsync of the folder): of every file's, one is the rename.
@pytest.mark.parametrize("step", [30, 43, 61, *[pytest.param(s, marks=pytest.mark.slow) for s in range(29, 75)]])
def test_a_builder_stopped_overtaken_and_woken_up_publishes_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(claims, "TAKEOVER_S", 0.3)
    root = tmp_path / "s"
    sleeper = forked.start(_build_otherwise_and_stop, str(root), step, stderr=tmp_path / "log")
    assert sleeper.pid is not None
    try:
        wait_until(partial(forked.is_stopped, sleeper), sleeper)  # where it ends instead, the step is too late
        build(str(root), small(), BuildRequest(teacher="random"))
        after = tree(root)
        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.join(120)
    finally:
        sleeper.kill()
    assert sleeper.exitcode == 1
    # Either it looked at its claim, or its successor had swept away the file that it was about to rename.
    said = (tmp_path / "log").read_text()
    assert "took over this part" in said or "No such file" in said
    assert tree(root) == after
    assert verify(str(root)).damages == []


def _no_links_no_locks(root: str) -> None:
    import fcntl

    def refused(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("no such thing on this share")

    os.link = refused
    fcntl.flock = fcntl.lockf = refused
    build(root, small(), BuildRequest(teacher="random"))


def test_a_share_without_hard_links_and_locks_is_enough(tmp_path: Path) -> None:
    assert forked.run(_no_links_no_locks, str(tmp_path / "s")) == 0
    assert verify(str(tmp_path / "s")).damages == []


def _clock_ahead(root: str, seconds: float) -> None:
    real = time.time
    time.time = lambda: real() + seconds
    build(root, small(), BuildRequest(teacher="random"))


@pytest.mark.parametrize("seconds", [pytest.param(-3600.0, marks=pytest.mark.slow), 3600.0])
def test_clocks_an_hour_apart_change_nothing(tmp_path: Path, seconds: float) -> None:
    assert forked.run(_clock_ahead, str(tmp_path / "s"), seconds) == 0
    build(str(tmp_path / "t"), small(), BuildRequest(teacher="random"))
    assert tree(tmp_path / "s") == tree(tmp_path / "t")
