"""Claims about what is scored: frames, clips or patients, by mean predictions or mean features, for classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.labelled import File, write_labelled
from tests.support.scoring import scored, scoring
from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.cache.recipes.marks import hard_values
from usjepa.cache.recipes.recipe import Recipe
from usjepa.evaluate.probes.base import Predictions
from usjepa.evaluate.scores.bootstrap import Draws
from usjepa.evaluate.scores.metrics import score, softmax, unpacked
from usjepa.evaluate.scores.units import Units
from usjepa.evaluate.scoring.gathering import gathered, refuse_mixed, scored_positions, unit_note
from usjepa.evaluate.tasks.find import find_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.evaluate.tasks.task import Task

FRAMES, CLIPS = 5, 3
"""Frames of a clip, and clips of a patient."""
FAST: dict[str, Any] = {"seeds": 2, "epochs": 8, "lr": 0.02, "few_shot": (0.5,), "corruptions": (), "bootstrap": 100}


def clips_of(folder: Path, patients: int = 16) -> Task:
    """Return a task of patients of one class each, with clips of several frames; frames lie clip by clip."""
    files = [File(("cyst", "none")[i % 2], f"p{i}") for i in range(patients) for _ in range(FRAMES * CLIPS)]
    (task,) = find_tasks(write_labelled(folder, files), EvaluateSettings()).tasks
    return replace(task, clips=np.repeat(np.arange(patients * CLIPS), FRAMES))


def features(task: Task, noise: float = 1.2) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(0)
    return (task.labels[:, None] + noise * rng.standard_normal((len(task), 4))).astype(np.float32)


def test_a_clips_class_is_that_of_its_mean_probability(tmp_path: Path) -> None:
    task = clips_of(tmp_path / "s.zarr")
    found = features(task)
    by_frame = scored(task, found, EvaluateSettings(**FAST), tmp_path / "f")
    settings = EvaluateSettings(**FAST, unit="clip")
    clip = scored(task, found, settings, tmp_path / "f")
    test = task.positions("test")
    assert len(unpacked(clip.record.primary.predicted[0])) == len(test) // FRAMES
    # The same frames, the same probes: the mean probability of each clip's frames, over both seeds here.
    assert by_frame.probability_NC is not None
    assert clip.probability_NC is not None
    assert np.array_equal(by_frame.probability_NC, clip.probability_NC)
    assert clip.record.macro_f1.mean > by_frame.record.macro_f1.mean
    vote = [unpacked(text).reshape(-1, FRAMES) for text in by_frame.record.probes["knn"].predicted]
    wanted = [[int(np.bincount(one).argmax()) for one in row] for row in vote]
    assert [unpacked(text).tolist() for text in clip.record.probes["knn"].predicted] == wanted
    truth = task.labels[test][::FRAMES]
    again = [score(truth, np.array(row), 2).macro_f1 for row in wanted]
    assert clip.record.probes["knn"].measures["macro_f1"].mean == pytest.approx(np.mean(again))


def test_mean_probability_and_vote_are_those_computed_by_hand() -> None:
    logits = np.random.default_rng(1).standard_normal((2, 6, 3))
    probability, units = softmax(logits), Units.of(np.array([0, 0, 0, 1, 1, 1]))
    made = gathered(Predictions(probability.argmax(2), probability), units, 3)
    wanted = probability.reshape(2, 2, 3, 3).mean(axis=2)
    assert made.probability_SNC is not None
    assert np.allclose(made.probability_SNC, wanted, rtol=1e-15)
    assert np.array_equal(made.predicted_SN, wanted.argmax(2))
    votes = gathered(Predictions(np.array([[0, 2, 2, 1, 0, 2]])), units, 3)
    assert votes.predicted_SN.tolist() == [[2, 0]]  # three votes for three classes: the lowest
    assert gathered(made, None, 3) is made


def test_mean_features_are_what_probes_see_and_a_frame_counts_only_through_its_clip(tmp_path: Path) -> None:
    task = clips_of(tmp_path / "s.zarr")
    found = features(task)
    settings = EvaluateSettings(**FAST, unit="clip", gather="features", attentive=True)
    draws = Draws(task.groups[scored_positions(task, settings)], 100)
    clip = scored(task, found, settings, tmp_path / "f", draws)
    # A task that has one frame a clip, its features the means, is the same task.
    first = np.arange(0, len(task), FRAMES)
    means = found.reshape(-1, FRAMES, 4).astype(np.float64).mean(axis=1).astype(np.float32)
    alone, plain = task.only(first), EvaluateSettings(**FAST)
    wide = np.zeros((len(task), 4), np.float32)
    wide[first] = means
    given = scoring(alone, plain, tmp_path / "g", draws)
    from tests.support.scoring import Given

    other = given.score("given", "Given", Given(task, wide), lambda: (None, ""))
    for name in ("probe", "logistic", "knn"):
        assert clip.record.probes[name].predicted == other.record.probes[name].predicted
        assert clip.record.probes[name].measures == other.record.probes[name].measures
    assert clip.record.few_shot == other.record.few_shot
    assert "attentive" not in clip.record.probes
    assert any("means over frames have none" in note for note in clip.notes)


def test_intervals_draw_patients_whatever_is_scored(tmp_path: Path) -> None:
    task = clips_of(tmp_path / "s.zarr")
    for unit, count in (("frame", 1), ("clip", FRAMES), ("patient", FRAMES * CLIPS)):
        settings = EvaluateSettings.model_validate({**FAST, "unit": unit})
        at = scored_positions(task, settings)
        assert len(at) == len(task.positions("test")) // count
        assert set(task.groups[at].tolist()) == set(task.groups[task.positions("test")].tolist())


def test_a_patient_of_several_classes_has_no_label_and_is_refused(tmp_path: Path) -> None:
    task = clips_of(tmp_path / "s.zarr")
    labels = task.labels.copy()
    labels[:FRAMES] = 1 - labels[0]
    mixed = replace(task, labels=labels)
    refuse_mixed(mixed, EvaluateSettings(unit="clip"))
    with pytest.raises(UsageError, match=r"1 of 16 have frames of several classes \(one of them: cyst, none\)"):
        refuse_mixed(mixed, EvaluateSettings(unit="patient"))


def test_what_is_scored_is_said_with_counts_and_how_it_is_gathered(tmp_path: Path) -> None:
    task = clips_of(tmp_path / "s.zarr")
    assert unit_note(task, EvaluateSettings()) == ""
    told = unit_note(task, EvaluateSettings(unit="patient", gather="features"))
    assert told.startswith("Scored per patient, with probes on the mean of its frames' features: ")
    assert "mean of its frames' predictions" in unit_note(task, EvaluateSettings(unit="clip"))


def test_the_setting_changes_the_identity_only_when_it_is_used() -> None:
    plain = hard_values(EvaluateSettings(), "evaluation")
    assert not {"unit", "gather"} & set(plain)
    assert hard_values(EvaluateSettings(unit="clip"), "evaluation") == {**plain, "unit": "clip"}
    with pytest.raises(ValueError, match=r"needs evaluate\.unit=clip or patient"):
        Recipe.model_validate({"evaluate": {"gather": "features"}})
