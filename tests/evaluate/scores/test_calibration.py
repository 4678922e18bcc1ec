"""Claims about calibration: the numbers are those of plain loops and of scikit-learn, a temperature mends it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from usjepa.evaluate.scores.calibration import (
    _BINS,
    _COLDEST,
    _bin_numbers,
    _bins_for,
    _calibration_error,
    _faultless_error,
    _fit_temperature,
    brier,
    calibrate,
    diagram,
    log_loss,
)
from usjepa.evaluate.scores.metrics import softmax

CLASSES = 4


def problem(count: int = 700, heat: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and the truth drawn from them; logits times `heat`, so that `heat` is the right temperature."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((count, CLASSES))
    truth = np.array([rng.choice(CLASSES, p=one) for one in softmax(logits)])
    return (heat * logits).astype(np.float32), truth


def named(logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how sure each frame's named class is, and whether it is right."""
    probability = softmax(logits)
    return probability.max(axis=1), probability.argmax(axis=1) == truth


def plain_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Return the calibration error as its definition reads: frame by frame into bins of equal mass."""
    edges = np.quantile(confidence, [i / bins for i in range(bins + 1)])
    held: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for sure, is_right in zip(confidence.tolist(), right.tolist(), strict=True):
        number = 0
        while number < bins - 1 and sure > edges[number + 1]:
            number += 1
        held[number].append((sure, is_right))
    total = 0.0
    for members in held:
        if members:
            accuracy = sum(is_right for _, is_right in members) / len(members)
            confidence_here = sum(sure for sure, _ in members) / len(members)
            total += len(members) * abs(accuracy - confidence_here)
    return total / len(confidence)


@pytest.mark.parametrize("heat", [0.4, 1.0, 3.0])
def test_the_calibration_error_is_that_of_a_plain_loop(heat: float) -> None:
    confidence, right = named(*problem(heat=heat))
    assert _calibration_error(confidence, right, _BINS) == pytest.approx(plain_error(confidence, right, _BINS))
    tied = np.round(confidence, 1)  # equal confidences share a bin, and some bins are empty
    assert _calibration_error(tied, right, _BINS) == pytest.approx(plain_error(tied, right, _BINS))


@pytest.mark.parametrize("digits", [1, 9])
def test_the_diagram_is_sklearns_calibration_curve(digits: int) -> None:
    confidence, right = named(*problem(699, heat=2.0))  # of 698 gaps no fifteenth ends on a frame
    confidence = np.round(confidence, digits)
    drawn = diagram(confidence, right, _BINS)
    share, sure = calibration_curve(right, confidence, n_bins=_BINS, strategy="quantile")
    assert drawn.accuracy == pytest.approx(share.tolist())
    assert drawn.confidence == pytest.approx(sure.tolist())
    assert sum(drawn.frames) == len(confidence)


def test_bins_hold_about_equally_many_frames_and_there_are_fewer_where_frames_are_few() -> None:
    confidence, _ = named(*problem())
    counts = np.bincount(_bin_numbers(confidence, _BINS))
    assert len(counts) == _BINS
    assert counts.max() - counts.min() <= 2
    assert [_bins_for(frames) for frames in (3, 29, 100, 150, 5000)] == [1, 1, 5, 7, 15]


def test_brier_and_cross_entropy_are_those_of_plain_loops_and_of_sklearn() -> None:
    logits, truth = problem()
    probability = softmax(logits)
    plain = sum(
        (float(p) - (c == y)) ** 2 for one, y in zip(probability, truth, strict=True) for c, p in enumerate(one)
    ) / len(truth)
    assert brier(probability, truth) == pytest.approx(plain)
    assert brier(probability, truth) == pytest.approx(
        brier_score_loss(truth, probability, labels=range(CLASSES), scale_by_half=False)
    )
    two = softmax(logits[:, :2])
    halved = truth % 2
    assert brier(two, halved) == pytest.approx(2 * brier_score_loss(halved, two[:, 1]))  # both classes are counted
    assert log_loss(logits, truth) == pytest.approx(sklearn_log_loss(truth, probability, labels=range(CLASSES)))
    assert brier(np.eye(2)[[0, 1]], np.array([1, 0])) == 2.0


@pytest.mark.parametrize("heat", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_and_is_that_of_a_fine_grid(heat: float) -> None:
    logits, truth = problem(3000, heat)
    found = _fit_temperature(logits, truth)
    assert found == pytest.approx(heat, rel=0.1)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2000))
    y = torch.from_numpy(truth)
    losses = [float(torch.nn.functional.cross_entropy(torch.from_numpy(logits).double() / t, y)) for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=4e-3)


def test_what_is_too_sure_is_mended_on_frames_that_the_temperature_never_saw() -> None:
    logits, truth = problem(1200, heat=4.0, seed=1)
    held, held_truth = problem(800, heat=4.0, seed=2)
    found = calibrate(logits[None], truth, held[None], held_truth)
    raw, tempered = found.raw, found.tempered
    assert tempered is not None
    assert raw.confidence > raw.accuracy + 0.1
    assert tempered.accuracy == raw.accuracy  # no prediction changes
    for measure in ("ece", "brier", "log_loss"):
        assert getattr(tempered, measure).mean < getattr(raw, measure).mean
    assert raw.ece.mean > 3 * raw.faultless_ece
    assert tempered.ece.mean < 2 * tempered.faultless_ece
    assert found.temperature is not None
    assert found.temperature.at_limit == 0


def test_a_faultless_probe_shows_an_error_on_few_frames_and_hardly_any_on_many() -> None:
    errors = []
    for count in (150, 15_000):
        found = [_calibration_error(*named(*problem(count, seed=seed)), _BINS) for seed in range(5)]
        wanted = _faultless_error(named(*problem(count))[0], _BINS)
        assert wanted == pytest.approx(np.mean(found), rel=0.35)
        errors.append(wanted)
    assert errors[0] > 5 * errors[1]


def test_a_faultless_errors_draws_are_those_of_a_plain_loop() -> None:
    confidence, _ = named(*problem(60))
    generator = np.random.Generator(np.random.Philox(key=[0x63616C, 60]))
    each = [plain_error(confidence, one < confidence, 6) for one in generator.random((200, 60))]
    assert _faultless_error(confidence, 6) == pytest.approx(float(np.mean(each)))


def test_without_validation_frames_there_is_no_temperature() -> None:
    logits, truth = problem(80)
    found = calibrate(logits[None], truth, logits[None, :0], truth[:0])
    assert found.temperature is None
    assert found.tempered is None
    assert found.raw.ece.mean > 0


def test_validation_frames_that_are_all_right_end_at_the_limit_and_it_is_found() -> None:
    truth = np.arange(40) % CLASSES
    logits = np.eye(CLASSES, dtype=np.float32)[truth]
    assert _fit_temperature(logits, truth) == pytest.approx(_COLDEST)
    temperature = calibrate(logits[None], truth, logits[None], truth).temperature
    assert temperature is not None
    assert temperature.at_limit == 1


def test_seeds_are_scored_one_by_one() -> None:
    made = [problem(300, heat) for heat in (1.0, 5.0)]
    truth = made[0][1]
    both = np.stack([logits for logits, _ in made])
    found = calibrate(both, truth, both, truth)
    for seed, logits in enumerate(both):
        alone = calibrate(logits[None], truth, logits[None], truth)
        for measure in ("ece", "brier", "log_loss"):
            assert getattr(found.raw, measure).seeds[seed] == getattr(alone.raw, measure).mean
        assert found.temperature is not None
        assert alone.temperature is not None
        assert found.temperature.seeds[seed] == alone.temperature.mean
