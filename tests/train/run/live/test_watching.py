"""Claims about when a run's page is written: it follows the run to its end, and never stops or slows it."""

from __future__ import annotations

import os
import re
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from tests.support.processes import forked
from tests.support.runs import STEPS, losses, recipe
from tests.train.run.live.test_page import about, history
from usjepa.cache.errors import ClaimedError, TrainingError
from usjepa.train.record.folder import PAGE, RunFolder
from usjepa.train.run import loop
from usjepa.train.run.live import watching
from usjepa.train.run.live.page import RUNNING
from usjepa.train.run.live.watching import LivePage, watched
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path


def page(run: Path) -> str:
    return (run / PAGE).read_text()


def state(run: Path) -> str:
    found = re.search(r'id="state">(\w+)<', page(run))
    assert found is not None
    return found[1]


@pytest.fixture
def failing_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that lets a step of the training do something first."""

    def at(step: int, what: Any) -> None:
        real, calls = vars(loop)["train_step"], []

        def counted(*args: Any) -> Any:
            calls.append(1)
            if len(calls) == step:
                what()
            return real(*args)

        monkeypatch.setattr(loop, "train_step", counted)

    return at


def test_the_page_says_that_a_run_goes_on_then_that_it_stopped_then_that_it_finished(
    phantom_store: Path, tmp_path: Path, failing_at: Any
) -> None:
    run, seen = tmp_path / "run", []
    failing_at(1, lambda: seen.append(state(run)))
    train(str(phantom_store), str(run), recipe(), "cpu", stop_after_steps=7)
    assert seen == ["running"]
    assert state(run) == "stopped"
    assert f"Stopped after step 7 of {STEPS}" in page(run)
    train(str(phantom_store), str(run), recipe(), "cpu")
    assert state(run) == "finished"
    assert 'http-equiv="refresh"' not in page(run)
    before = (run / PAGE).stat()
    train(str(phantom_store), str(run), recipe(), "cpu")
    assert (run / PAGE).stat() == before


def test_a_run_that_fails_says_why(phantom_store: Path, tmp_path: Path, failing_at: Any) -> None:
    def fail() -> None:
        raise TrainingError("step 2: the loss is <b>not finite</b>")

    failing_at(3, fail)
    with pytest.raises(TrainingError):
        train(str(phantom_store), str(tmp_path / "run"), recipe(), "cpu")
    assert state(tmp_path / "run") == "failed"
    assert "the loss is &lt;b&gt;not finite&lt;/b&gt;" in page(tmp_path / "run")
    assert "Failed after step 2 of" in page(tmp_path / "run")


def killed(store: Path, run: Path) -> None:
    torch.set_num_threads(1)
    real = vars(loop)["train_step"]

    def kills(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    vars(loop)["train_step"] = kills
    train(str(store), str(run), recipe(), "cpu")


def test_a_killed_run_leaves_a_whole_page_and_the_next_call_goes_on_with_it(
    phantom_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert forked.run(killed, phantom_store, run) == -signal.SIGKILL
    assert state(run) == "running"
    assert page(run).rstrip().endswith("</html>")
    train(str(phantom_store), str(run), recipe(), "cpu")
    assert state(run) == "finished"


def test_a_page_that_fails_is_one_warning_and_changes_no_loss(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    train(str(phantom_store), str(tmp_path / "with"), recipe(), "cpu")
    monkeypatch.setattr(watching, "_EVERY_S", 0.0)
    monkeypatch.setattr(watching, "_SHARE", 1e9)

    def fails(*_: Any) -> str:
        raise ZeroDivisionError("no page")

    monkeypatch.setattr(watching, "render", fails)
    train(str(phantom_store), str(tmp_path / "without"), recipe(), "cpu")
    assert losses(tmp_path / "without") == losses(tmp_path / "with")
    assert not (tmp_path / "without" / PAGE).exists()
    assert sum("index.html: is not up to date (no page)" in line for line in said) == 1


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_page_of_a_run_is_left_as_it_is(tmp_path: Path, kind: str, said: list[str]) -> None:
    place = tmp_path / PAGE
    if kind == "file":
        place.write_text("<p>a report of my own</p>")
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("elsewhere.html")
    before = place.lstat()
    shown = live(tmp_path)
    shown.show(RUNNING)
    assert place.lstat() == before
    assert [path.name for path in tmp_path.iterdir()] == [PAGE]
    assert sum("is no page of usjepa-train" in line for line in said) == 1


def live(folder: Path) -> LivePage:
    return LivePage(RunFolder(folder), about(), lambda: history(1))


def test_a_page_that_takes_long_is_written_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, cost, written = 0.0, 0.1, []

    def slow(*_: Any) -> str:
        nonlocal now
        now += cost
        written.append(now)
        return "page"

    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: now, time=lambda: 1.8e9))
    monkeypatch.setattr(watching, "render", slow)
    shown = live(tmp_path)
    for cost, fewest, most in ((0.1, 110, 121), (60.0, 0, 2)):  # noqa: B007  # read by `slow`
        written.clear()
        begun = now
        while now < begun + 3600:
            shown.write([])
            now += 1.0
        assert fewest <= len(written) <= most
        shown.show(RUNNING)


def test_a_folder_that_was_taken_over_keeps_the_page_of_its_new_owner(tmp_path: Path, said: list[str]) -> None:
    def taken() -> None:
        raise ClaimedError("another process trains here")

    LivePage(RunFolder(tmp_path, taken), about(), lambda: history(1)).show(RUNNING)
    assert list(tmp_path.iterdir()) == []
    assert said == []


def test_other_ranks_write_no_page() -> None:
    with watched(cast("Any", SimpleNamespace(ranks=SimpleNamespace(leads=False)))):
        pass
