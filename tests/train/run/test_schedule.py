"""Learning rate and weight decay as functions of the step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.run.schedule import Schedule

PAPER = TrainSettings()


def test_the_papers_schedule_starts_peaks_and_ends_where_it_says() -> None:
    schedule = Schedule(PAPER, 50)
    assert schedule.lr(0) == 5e-6
    assert schedule.lr(10 * 50) == 5e-5
    assert schedule.lr(100 * 50 - 1) == pytest.approx(5e-7, rel=1e-12)
    assert schedule.weight_decay(0) == 0.04
    assert schedule.weight_decay(100 * 50 - 1) == pytest.approx(0.4, rel=1e-12)


def test_warmup_is_a_straight_line_and_the_rest_half_a_cosine() -> None:
    schedule = Schedule(PAPER, 50)
    assert schedule.lr(250) == pytest.approx((5e-6 + 5e-5) / 2)
    expected = 5e-7 + (5e-5 - 5e-7) * 0.5 * (1 + math.cos(math.pi * 1500 / 4499))
    assert schedule.lr(2000) == pytest.approx(expected)


@given(st.integers(1, 40), st.integers(0, 39), st.integers(1, 30))
def test_values_stay_in_range_and_move_one_way(epochs: int, warmup: int, steps_per_epoch: int) -> None:
    warmup = min(warmup, epochs - 1)
    settings = TrainSettings(epochs=epochs, warmup_epochs=warmup)
    schedule = Schedule(settings, steps_per_epoch)
    total = epochs * steps_per_epoch
    rates = [schedule.lr(step) for step in range(total)]
    peak = warmup * steps_per_epoch
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[peak] == settings.lr
    assert rates[-1] == pytest.approx(settings.lr_final if total - 1 > peak else settings.lr, rel=1e-9)
    decays = [schedule.weight_decay(step) for step in range(total)]
    assert decays == sorted(decays)
    assert schedule.lr(total + 5) == pytest.approx(settings.lr_final)


def test_without_warmup_the_first_step_takes_the_peak() -> None:
    assert Schedule(TrainSettings(warmup_epochs=0), 10).lr(0) == PAPER.lr


def test_a_run_of_one_step_is_defined() -> None:
    schedule = Schedule(TrainSettings(epochs=1, warmup_epochs=0), 1)
    assert (schedule.lr(0), schedule.weight_decay(0)) == (PAPER.lr, PAPER.weight_decay)
