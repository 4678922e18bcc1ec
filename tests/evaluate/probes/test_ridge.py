"""Claims about probes for numbers: ridge is scikit-learn's, its strength is the best, the head looks where it must."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.probes.attentive_numbers import AttentiveNumbers
from usjepa.evaluate.probes.base import NotScoredError
from usjepa.evaluate.probes.regression import NumberInput, NumberPart
from usjepa.evaluate.probes.ridge import STRENGTHS, UNCHOSEN, RidgeProbe, fit_ridge
from usjepa.evaluate.scores.units import Units

RNG = np.random.default_rng
Floats = np.ndarray[Any, np.dtype[np.float64]]


class Frames:
    """Frames that know their positions, in place of a task."""

    def __init__(self, at: Any) -> None:
        self.at = np.asarray(at)

    def only(self, where: Any) -> Frames:
        return Frames(self.at[where])


def number_input(
    x: np.ndarray[Any, Any], y: Floats, ends: tuple[int, int], units: Units | None = None, **settings: Any
) -> NumberInput:
    """Return what probes are given of frames in order: training up to the first end, validation up to the second."""
    cuts = (slice(0, ends[0]), slice(*ends), slice(ends[1], len(y)))
    parts = [NumberPart(x[cut].astype(np.float32), y[cut], cast("Any", Frames(np.arange(len(y))[cut]))) for cut in cuts]
    return NumberInput(parts[0], parts[1], parts[2], EvaluateSettings(**settings), units, None)


@pytest.mark.parametrize(("frames", "features"), [(200, 12), (15, 40), (5000, 3)])
def test_weights_are_those_of_scikit_learn_at_every_strength(frames: int, features: int) -> None:
    rng = RNG(frames)
    x = (rng.standard_normal((frames, features)) + rng.standard_normal(features)).astype(np.float32)
    x[:, 0] = 0.0  # a feature that never varies
    y = 55 + x @ rng.standard_normal(features) + rng.standard_normal(frames)
    other = rng.standard_normal((7, features)).astype(np.float32)
    found = fit_ridge(x, y).predict(other)
    for strength, said in zip(STRENGTHS, found, strict=True):
        wanted = Ridge(alpha=frames * strength).fit(x.astype(np.float64), y).predict(other.astype(np.float64))
        assert said == pytest.approx(wanted, rel=1e-6)


def test_the_strength_is_the_one_of_the_lowest_validation_error() -> None:
    rng = RNG(2)
    x = rng.standard_normal((90, 30)).astype(np.float32)
    y = x[:, :3].sum(axis=1) + 2 * rng.standard_normal(90)
    made = RidgeProbe().predict(number_input(x, y, (40, 60)))
    errors = [
        np.square(Ridge(alpha=40 * one).fit(x[:40], y[:40]).predict(x[40:60]) - y[40:60]).mean() for one in STRENGTHS
    ]
    best = STRENGTHS[int(np.argmin(errors))]
    assert made.about == {"strength": best, "chosen": True, "at_limit": False}
    assert made.predicted_SN[0] == pytest.approx(Ridge(alpha=40 * best).fit(x[:40], y[:40]).predict(x[60:]), rel=1e-4)
    without = RidgeProbe().predict(number_input(x, y, (40, 40)))
    assert without.about == {"strength": UNCHOSEN, "chosen": False, "at_limit": False}


def test_where_clips_are_scored_the_strength_is_judged_by_clips() -> None:
    rng = RNG(3)
    clips = np.repeat(rng.standard_normal(6), 10)
    train = rng.standard_normal((60, 20))
    held = rng.standard_normal((60, 20))
    held[:, 0] = clips + 2 * rng.standard_normal(60)  # what a frame shows of its clip is mostly noise
    x, y = np.concatenate([train, held]).astype(np.float32), np.concatenate([train[:, 0], clips])
    units = Units.of(np.repeat(np.arange(6), 10))
    by_clip = RidgeProbe().predict(number_input(x, y, (60, 120), units))
    errors = []
    for one in STRENGTHS:
        said = Ridge(alpha=60 * one).fit(x[:60], y[:60]).predict(x[60:])
        errors.append(np.square(said.reshape(6, 10).mean(axis=1) - y[60::10]).mean())
    assert by_clip.about["strength"] == STRENGTHS[int(np.argmin(errors))]
    assert by_clip.about["strength"] != RidgeProbe().predict(number_input(x, y, (60, 120))).about["strength"]


def test_numbers_that_never_vary_are_predicted_as_they_are() -> None:
    x = RNG(4).standard_normal((30, 5)).astype(np.float32)
    made = RidgeProbe().predict(number_input(x, np.full(30, 7.25), (15, 20)))
    assert made.predicted_SN.tolist() == [[7.25] * 10]


def tokens_of(values: Floats, noise: float = 0.3) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return tokens [n, 4, 4, 8] of which one, at another place each time, holds the number."""
    rng = RNG(5)
    tokens = noise * rng.standard_normal((len(values), 16, 8))
    place = rng.integers(0, 16, len(values))
    tokens[np.arange(len(values)), place, 0] = 4.0  # marks the place
    tokens[np.arange(len(values)), place, 1] = values
    return tokens.reshape(-1, 4, 4, 8).astype(np.float32)


def test_the_attentive_head_reads_a_number_that_one_patch_tells() -> None:
    values = RNG(6).standard_normal(160)
    tokens = tokens_of(values)
    truth = 50 + 8 * values
    given = number_input(tokens.mean(axis=(1, 2)), truth, (100, 120), lr=0.02, epochs=40, seeds=2)
    source = SimpleNamespace(available=True, tokens=lambda frames: tokens[frames.at].copy())
    given = NumberInput(given.train, given.validation, given.test, given.settings, None, cast("Any", source))
    made = AttentiveNumbers().predict(given)
    assert made.predicted_SN.shape == (2, 40)
    error = np.abs(made.predicted_SN - truth[120:]).mean()
    assert error < 0.5 * np.abs(truth[120:] - truth[:100].mean()).mean()
    again = AttentiveNumbers().predict(given)
    assert np.array_equal(made.predicted_SN, again.predicted_SN)
    few = NumberInput(
        given.train, given.validation, given.test, given.settings.model_copy(update={"attentive_frames": 8}), None,
        given.tokens,
    )  # fmt: skip
    assert AttentiveNumbers().predict(few).about["training_frames"] == 8


def test_the_attentive_head_says_why_it_can_not_score() -> None:
    x, y = np.zeros((6, 2)), np.arange(6.0)
    with pytest.raises(NotScoredError, match="gives no patch tokens"):
        AttentiveNumbers().predict(number_input(x, y, (3, 4)))
    with pytest.raises(NotScoredError, match="means over frames have none"):
        AttentiveNumbers().predict(number_input(x, y, (3, 4), unit="clip", gather="features"))
