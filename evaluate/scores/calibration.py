"""Measure how well a probe's confidence is calibrated, and fit the correcting temperature.

* **Expected calibration error** of the named class (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599): frames are
  put into bins by the probability of the class that is named; the error is the mean distance between how sure a bin
  is and how often it is right, weighted by frames. Bins of equal mass (quantiles), 15 as Guo's: of 15 equally wide ones
  most are nearly empty where a probe is sure, and their noise would count.
* **Error of a faultless probe.** On few frames the error is never 0. The same confidences with outcomes drawn
  from them give the error of a probe that is perfectly calibrated (consistency resampling, Broecker and Smith 2007).
* **Brier score** (Brier 1950): squared distance between probabilities and truth, summed over classes, from 0
  to 2; 0 is best.
* **Temperature** (Guo et al. 2017): logits are divided by the one number that gives the lowest cross-entropy on the
  validation frames. It changes no prediction.

Shape suffixes: S seeds, N frames, V validation frames, C classes, K bins, R draws.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.randomness import keyed_generator
from usjepa.evaluate.scores.metrics import over_seeds, softmax
from usjepa.evaluate.scores.records import Measure, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Ints = NDArray[np.int64]

_BINS = 15
_LEAST_IN_A_BIN = 20
"""Fewer bins are made where one would hold fewer frames: chance alone moves the share of 20 by 11 points."""
_COLDEST, _HOTTEST = 0.05, 20.0
"""Temperatures that are looked at. On validation frames that are all recognised the best one would be 0."""
_DRAWS = 200
_TAG = 0x63616C


class Diagram(Record):
    """A reliability diagram: a value per bin that holds frames."""

    confidence: tuple[float, ...]
    """Mean probability of the named class."""
    accuracy: tuple[float, ...]
    """Share of frames named rightly."""
    frames: tuple[int, ...]


class Reliability(Record):
    """How calibrated the probes of all seeds are in one state: as trained, or with their temperatures."""

    ece: Measure
    """Expected calibration error, 0 to 1."""
    brier: Measure
    """Brier score, 0 to 2."""
    log_loss: Measure
    """Mean cross-entropy in nats."""
    faultless_ece: float
    """Calibration error that a perfectly calibrated probe would show on as many frames."""
    confidence: float
    """Mean probability of the named class."""
    accuracy: float
    """Share of frames named rightly."""
    diagram: Diagram
    """Of all seeds together."""


class Temperature(Record):
    """The temperatures of all seeds."""

    mean: float
    sd: float
    seeds: tuple[float, ...]
    at_limit: int
    """How many lie at the end of the range that is searched, `_COLDEST` to `_HOTTEST`."""


class Calibration(Record):
    """How calibrated a probe is on a task's test frames."""

    frames: int
    bins: int
    raw: Reliability
    """As trained."""
    tempered: Reliability | None
    """With their temperatures; None without validation frames to fit them on."""
    temperature: Temperature | None


def calibrate(
    logits_SNC: NDArray[np.float32],
    truth_N: Ints,
    validation_SVC: NDArray[np.float32],
    validation_truth_V: Ints,
) -> Calibration:
    """Measure how calibrated the probes of all seeds are.

    Args:
        logits_SNC: of the test frames.
        truth_N: their classes.
        validation_SVC: logits of the validation frames, for the temperature; without frames there is none.
        validation_truth_V: their classes.
    """
    tempered = temperature = None
    if len(validation_truth_V):
        found = [_fit_temperature(logits_VC, validation_truth_V) for logits_VC in validation_SVC]
        spread = over_seeds(found)
        limit = sum(map(_at_limit, found))
        temperature = Temperature(mean=spread.mean, sd=spread.sd or 0.0, seeds=spread.seeds, at_limit=limit)
        tempered = _reliability(logits_SNC / np.array(found)[:, None, None], truth_N)
    return Calibration(
        frames=len(truth_N),
        bins=_bins_for(len(truth_N)),
        raw=_reliability(logits_SNC.astype(np.float64), truth_N),
        tempered=tempered,
        temperature=temperature,
    )


def _bins_for(frames: int) -> int:
    """Return the number of bins for a number of frames."""
    return max(1, min(_BINS, frames // _LEAST_IN_A_BIN))


def _fit_temperature(logits_VC: NDArray[np.float32], truth_V: Ints) -> float:
    """Return the temperature of the lowest mean cross-entropy, within `_COLDEST` and `_HOTTEST`.

    The cross-entropy is convex in one over the temperature, so it has one valley over its logarithm too.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return log_loss(logits_VC / math.exp(log_temperature), truth_V)

    ends = (math.log(_COLDEST), math.log(_HOTTEST))
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-5})
    return math.exp(min((*ends, float(found.x)), key=loss))


def _at_limit(temperature: float) -> bool:
    return temperature < 1.001 * _COLDEST or temperature > 0.999 * _HOTTEST


def log_loss(logits_NC: NDArray[np.floating[Any]], truth_N: Ints) -> float:
    """Return the mean cross-entropy of logits."""
    logits = logits_NC.astype(np.float64)
    highest = logits.max(axis=1)
    total = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return float((total - logits[np.arange(len(truth_N)), truth_N]).mean())


def brier(probability_NC: Floats, truth_N: Ints) -> float:
    """Return the Brier score over all classes, 0 to 2."""
    onehot_NC = np.eye(probability_NC.shape[1])[truth_N]
    return float(np.square(probability_NC - onehot_NC).sum(axis=1).mean())


def _bin_numbers(confidence_N: Floats, bins: int) -> Ints:
    """Return each frame's bin, 0 to bins - 1, of equal mass; equal confidences share a bin, so some may be empty."""
    edges = np.quantile(confidence_N, np.linspace(0.0, 1.0, bins + 1))
    return np.searchsorted(edges[1:-1], confidence_N).astype(np.int64)


def diagram(confidence_N: Floats, right_N: Flags, bins: int) -> Diagram:
    """Return the reliability diagram of frames: of each bin with frames its mean confidence, share right and frames."""
    number_N = _bin_numbers(confidence_N, bins)
    frames_K = np.bincount(number_N, minlength=bins)
    used = frames_K > 0
    sure_K, right_K = (
        np.bincount(number_N, values, minlength=bins)[used] / frames_K[used] for values in (confidence_N, right_N)
    )
    return Diagram(
        confidence=tuple(sure_K.tolist()), accuracy=tuple(right_K.tolist()), frames=tuple(frames_K[used].tolist())
    )


def _calibration_error(confidence_N: Floats, right_N: Flags, bins: int) -> float:
    """Return the expected calibration error, 0 to 1."""
    drawn = diagram(confidence_N, right_N, bins)
    apart = np.abs(np.subtract(drawn.accuracy, drawn.confidence))
    return float(apart @ np.array(drawn.frames) / len(confidence_N))


def _faultless_error(confidence_N: Floats, bins: int) -> float:
    """Return the mean calibration error of a predictor that is right exactly as often as it says, on these frames.

    Frames are taken as independent; where patients have many frames, chance alone makes more.
    """
    generator = keyed_generator(_TAG, len(confidence_N))
    number_N = _bin_numbers(confidence_N, bins)
    within_NK = np.eye(bins)[number_N]
    right_RN = generator.random((_DRAWS, len(confidence_N))) < confidence_N
    apart_RK = np.abs((right_RN - confidence_N) @ within_NK)
    return float(apart_RK.sum(axis=1).mean() / len(confidence_N))


def _reliability(logits_SNC: Floats, truth_N: Ints) -> Reliability:
    probability_SNC = softmax(logits_SNC)
    confidence_SN = probability_SNC.max(axis=2)
    right_SN = probability_SNC.argmax(axis=2) == truth_N
    bins = _bins_for(len(truth_N))
    pairs = list(zip(confidence_SN, right_SN, strict=True))
    return Reliability(
        ece=over_seeds([_calibration_error(confidence_N, right_N, bins) for confidence_N, right_N in pairs]),
        brier=over_seeds([brier(one, truth_N) for one in probability_SNC]),
        log_loss=over_seeds([log_loss(one, truth_N) for one in logits_SNC]),
        faultless_ece=float(np.mean([_faultless_error(one, bins) for one in confidence_SN])),
        confidence=float(confidence_SN.mean()),
        accuracy=float(right_SN.mean()),
        diagram=diagram(confidence_SN.ravel(), right_SN.ravel(), bins),
    )
