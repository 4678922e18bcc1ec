"""Claims about scoring numbers: by frame, clip and patient, as scikit-learn would from the same features."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from tests.support.labelled import File, write_labelled
from tests.support.scoring import Given
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.cache.recipes.recipe import Recipe
from usjepa.evaluate.encoders.features import KeptFeatures
from usjepa.evaluate.probes.registry import regressors
from usjepa.evaluate.scores.regression import unpacked_floats
from usjepa.evaluate.scoring.items import Items
from usjepa.evaluate.scoring.regression import RegressionScored, RegressionScoring
from usjepa.evaluate.tasks.regression import Regression, open_regressions

if TYPE_CHECKING:
    from pathlib import Path

FRAMES, CLIPS, PATIENTS = 4, 2, 24
Floats = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture
def task(tmp_path: Path) -> Regression:
    """Patients of two clips, each with a value of its own and several frames."""
    values = [f"{40 + patient + 0.5 * clip}" for patient in range(PATIENTS) for clip in range(CLIPS)]
    files = [File(value, f"p{i // CLIPS:02d}") for i, value in enumerate(values) for _ in range(FRAMES)]
    write_labelled(tmp_path / "s.zarr", files)
    (made,) = open_regressions([str(tmp_path / "s.zarr")], tmp_path, Recipe())
    return replace(made, clips=np.repeat(np.arange(len(values)), FRAMES))


def features_of(task: Regression) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(0)
    return (task.values[:, None] * rng.standard_normal(6) + 20 * rng.standard_normal((len(task), 6))).astype(np.float32)


def scored(task: Regression, tmp_path: Path, **settings: Any) -> RegressionScored:
    made = EvaluateSettings(bootstrap=200, **settings)
    features, kept = features_of(task), KeptFeatures(tmp_path / "f", 16)
    return RegressionScoring.of(task, regressors(made), made, kept).score(
        "given", "Given", Given(task.frames(), features)
    )


def by_hand(x: Floats, y: Floats, splits: Any, strength: float) -> Floats:
    """Return what scikit-learn's ridge predicts for the test, of features standardised by the training split."""
    train = splits == "train"
    scale = StandardScaler().fit(x[train])
    fitted = Ridge(alpha=train.sum() * strength).fit(scale.transform(x[train]), y[train])
    said: Floats = fitted.predict(scale.transform(x[splits == "test"]))
    return said


def test_frames_are_predicted_as_scikit_learn_would(task: Regression, tmp_path: Path) -> None:
    ridge = scored(task, tmp_path).record.primary
    strength = ridge.about["strength"]
    assert isinstance(strength, float)
    wanted = by_hand(features_of(task).astype(np.float64), task.values, task.splits, strength)
    assert unpacked_floats(ridge.predicted[0]) == pytest.approx(wanted, rel=1e-5)
    truth = task.values[task.positions("test")]
    assert ridge.measures["mae"].mean == pytest.approx(np.abs(wanted - truth).mean(), rel=1e-4)


@pytest.mark.parametrize(("unit", "size"), [("clip", FRAMES), ("patient", FRAMES * CLIPS)])
@pytest.mark.parametrize("gather", ["predictions", "features"])
def test_clips_and_patients_are_means_of_predictions_or_of_features(
    task: Regression, tmp_path: Path, unit: str, size: int, gather: str
) -> None:
    ridge = scored(task, tmp_path, unit=unit, gather=gather).record.primary
    strength = ridge.about["strength"]
    assert isinstance(strength, float)
    x, y = features_of(task).astype(np.float64), task.values
    if gather == "features":
        x, y = x.reshape(-1, size, 6).mean(axis=1), y.reshape(-1, size).mean(axis=1)
        wanted = by_hand(x, y, task.splits[::size], strength)
    else:
        wanted = by_hand(x, y, task.splits, strength).reshape(-1, size).mean(axis=1)
    assert unpacked_floats(ridge.predicted[0]) == pytest.approx(wanted, rel=1e-5)
    truth = task.values[task.positions("test")].reshape(-1, size).mean(axis=1)
    assert ridge.measures["rmse"].mean == pytest.approx(np.sqrt(np.square(wanted - truth).mean()), rel=1e-4)


def test_intervals_draw_patients_and_are_those_of_patients_drawn_by_hand(task: Regression, tmp_path: Path) -> None:
    made = scored(task, tmp_path, unit="clip")
    said = unpacked_floats(made.record.primary.predicted[0])
    truth = Items(task, EvaluateSettings(unit="clip")).values("test")
    error = np.abs(said - truth).reshape(-1, CLIPS).mean(axis=1)
    rng = np.random.default_rng(3)
    drawn = error[rng.integers(0, len(error), (20000, len(error)))].mean(axis=1)
    found = made.record.primary.measures["mae"].interval
    assert found == pytest.approx(np.percentile(drawn, [2.5, 97.5]), rel=0.15)


def test_what_is_scored_is_told_with_patients_of_several_values(task: Regression) -> None:
    (told,) = Items(task, EvaluateSettings()).notes()
    assert "Scored per frame" in told
    assert "evaluate.unit=clip or patient counts each once" in told
    assert len(Items(task, EvaluateSettings(unit="clip")).notes()) == 1
    first, second = Items(task, EvaluateSettings(unit="patient")).notes()
    assert first.startswith("Scored per patient, each with the mean of its frames' predictions: ")
    assert second == (
        f"{PATIENTS} of {PATIENTS} patients have frames with different values of label: the mean of their frames' "
        "values is what is predicted."
    )
    counts = Items(task, EvaluateSettings(unit="clip")).counts("test")
    assert counts.frames == FRAMES * counts.items == FRAMES * CLIPS * counts.groups


def test_a_clips_value_is_exactly_that_of_its_frames(task: Regression) -> None:
    values = task.values + 0.1  # a mean of equal numbers may differ from them in its last bit
    exact = Items(replace(task, values=values), EvaluateSettings(unit="clip"))
    assert set(exact.values("train").tolist()) <= set(values.tolist())
