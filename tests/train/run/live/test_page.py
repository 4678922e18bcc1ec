"""Claims about a run's page: what it says of a history, that it stays small, and that no name becomes markup."""

from __future__ import annotations

import math
from typing import Any

import pytest

from usjepa.train.record.history import History
from usjepa.train.run.live.page import FAILED, FINISHED, RUNNING, STOPPED, About, Moment, render

NASTY = '"><script>alert(1)</script>'


def about(epochs: int = 40, per: int = 20, name: str = "run") -> About:
    return About(name, epochs, per, (f"{name}: frames",), (("lr", name),), (("Store", name),))


def step_line(step: int, per: int, **more: Any) -> Any:
    return {
        **{"kind": "step", "step": step, "epoch": step // per, "loss": 0.3 + math.exp(-step / per), "lr": 1e-3},
        **{"wd": 0.04, "grad_norm": 1.5, "images": 64, "unusable": 0, "batch": "0" * 16, "images_per_s": 640.0},
        **{"data_wait_s": 0.02},
        **more,
    }


def check_line(epoch: int, per: int, **more: Any) -> Any:
    return {
        **{"kind": "validation", "epoch": epoch, "step": (epoch + 1) * per, "loss": 0.4 + math.exp(-epoch)},
        **{"images": 50, "unusable": 0, "best": True, "rankme": 12.5 + epoch, "knn": 0.5},
        **more,
    }


def history(epochs: int, per: int = 20, targets: tuple[str, ...] = (), **measured: Any) -> History:
    made = History()
    losses = {"losses": dict.fromkeys(targets, 0.5)} if targets else {}
    for epoch in range(epochs):
        for step in range(epoch * per, (epoch + 1) * per):
            made.add(step_line(step, per, **losses))
        made.add(check_line(epoch, per, **losses, **measured))
    return made


def page(made: History, state: str = RUNNING, **more: Any) -> str:
    return render(about(), made, Moment(state, 1.8e9, **more))


def test_a_run_that_goes_on_is_loaded_again_and_an_ended_one_is_not() -> None:
    made = history(3)
    assert '<meta http-equiv="refresh" content="20">' in page(made)
    for state in (STOPPED, FINISHED, FAILED):
        text = page(made, state)
        assert 'http-equiv="refresh"' not in text
        assert f'id="state">{state}<' in text


def test_the_first_screen_says_where_the_run_stands_and_what_is_left() -> None:
    text = page(history(3), left_s=7000.0)
    assert "Step 60 of 800 (epoch 4 of 40)" in text
    assert "about 2 h left" in text
    assert "<title>7 % run</title>" in text
    for told in ("20 %", "of the time spent waiting for data", "14.5", "RankMe of the features", "640"):
        assert told in text
    assert "20 % of the time was spent waiting for the store" in text
    assert "The first step is still to come." in page(History())


def test_what_ended_a_run_is_said() -> None:
    assert "the disk is full" in page(history(1), FAILED, why="the disk is full")
    assert "Stopped after step 20 of 800 (epoch 2 of 40)" in page(history(1), STOPPED)
    text = render(about(epochs=3), history(3), Moment(FINISHED, 1.8e9))
    assert "All 3 epochs are done, and the encoder of epoch 3, of the lowest validation loss, is exported." in text
    assert "Lowest validation loss 0.53534 after epoch 3 of 3" in text
    assert "<li>k-NN on held-out groups" in text
    without = History()
    without.add(step_line(0, 1))
    assert "the last encoder is exported" in render(about(1, 1), without, Moment(FINISHED, 1.8e9))


def test_losses_of_targets_and_every_measured_number_have_a_chart_of_their_own() -> None:
    made = history(3, targets=("usfm", "dinov3"), probe={"cyst": 0.25, "stone": 0.5}, new_measure=3.0, text="no number")
    text = page(made)
    wanted = ["Loss", "Loss of usfm", "Loss of dinov3", "k-NN on held-out groups, macro F1", "RankMe of the features"]
    wanted += ["Probe: cyst", "Probe: stone", "New measure", "Waiting for data, %", "Learning rate"]
    for title in wanted:
        assert f'aria-label="{title}"' in text
    assert text.index("Scores on labels</h2>") < text.index('aria-label="Probe: cyst"') < text.index("Features</h2>")
    assert "no number" not in text


def test_no_name_becomes_markup() -> None:
    measured: dict[str, Any] = {f"probe {NASTY}": 0.5}
    made = history(2, targets=(NASTY,), **measured)
    text = render(about(name=NASTY), made, Moment(FAILED, 1.8e9, why=NASTY))
    assert text.count("<script>") == 1  # its own
    assert "alert(1)" in text


def test_only_the_pages_own_script_may_run() -> None:
    text = page(history(1))
    assert "script-src 'sha256-" in text
    assert "unsafe-inline'; img-src data:; script-src" in text


def test_a_run_of_10_000_epochs_and_six_targets_makes_a_small_page() -> None:
    made = history(10_000, per=2, targets=tuple(f"teacher {n}" for n in range(6)), probe={"a": 0.5, "b": 0.25})
    text = render(about(10_000, 2), made, Moment(RUNNING, 1.8e9))
    assert len(text) < 300_000
    assert "Step 20,000 of 20,000" not in text
    assert "All steps are done" in text


def test_the_same_history_gives_the_same_page_also_after_a_checkpoint() -> None:
    made = history(30, per=40, targets=("usfm",))
    assert page(made) == page(History.from_json(made.to_json()))


def test_a_checkpoint_of_a_version_without_these_numbers_is_read() -> None:
    stored = history(2).to_json()
    del stored["series"]
    text = page(History.from_json(stored))
    assert 'aria-label="Loss"' in text
    assert "Waiting for data, %" not in text


@pytest.mark.parametrize(("seconds", "told"), [(20, "20 s"), (600, "10 min"), (9000, "2 h"), (400_000, "5 days")])
def test_times_are_said_in_a_unit_that_a_person_would_use(seconds: float, told: str) -> None:
    assert f"about {told} left" in page(history(1), left_s=float(seconds))
