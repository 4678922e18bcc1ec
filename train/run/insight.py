"""Measure the encoder's features on held-out frames: rank, spread and a k-NN probe.

Within one teacher a lower loss means a better student (SALT, arXiv 2509.24317, section 4); between settings it means
little. So validation also measures, on whole held-out frames: RankMe, whose fall shows a collapse, the spread of the
features, and every few epochs, if frames have labels, a k-NN probe from training frames to held-out groups.

Shape suffixes: N frames, F features, B images, L tokens, D width, S sources, K known frames.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from usjepa.train.data.order import first_views_of
from usjepa.train.probe.knn import knn_predict

if TYPE_CHECKING:
    from usjepa.train.model.student import Student
    from usjepa.train.run.plan import TrainingPlan

_HELD_OUT = 1024
"""Most held-out frames that are measured."""
_NEIGHBOURS_AMONG = 2048
"""Most training frames that the k-NN probe chooses from."""
_K = 20
_AT_ONCE = 64
_RANKME_EPSILON = 1e-7

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float32]


class FeatureMeasures(TypedDict, total=False):
    """Measures of the features at the end of an epoch; what can't be measured is left out."""

    rankme: float
    feature_std: float
    """Standard deviation over frames, mean over features."""
    knn: float
    """Macro F1 of the probe, 0 to 1."""


def measure_features(student: Student, plan: TrainingPlan, epoch: int) -> FeatureMeasures:
    """Return the measures at the end of an epoch (from 0); {} without two held-out frames.

    `knn` is there at every `train.knn_every`-th epoch and the last, if two classes are labelled on either side.
    """
    held = _evenly(plan.validation_rows, _HELD_OUT)
    if len(held) < 2:
        return {}
    features_NF = _features(student, plan, held)
    found: FeatureMeasures = {
        "rankme": round(_rank_me(features_NF), 3),
        "feature_std": round(float(features_NF.std(0).mean()), 6),
    }
    every = plan.settings.knn_every
    if every and ((epoch + 1) % every == 0 or epoch + 1 == plan.settings.epochs):
        score = _probe(student, plan, held, features_NF)
        if score is not None:
            found["knn"] = round(score, 4)
    return found


def _features(student: Student, plan: TrainingPlan, positions: _Ints) -> _Floats:
    """Return the mean patch tokens of whole frames, float32 [N, D]."""
    was_training = student.training
    student.eval()
    pooled = []
    with torch.no_grad():
        for start in range(0, len(positions), _AT_ONCE):
            rows = plan.store.row_numbers(positions[start : start + _AT_ONCE])
            pixels = torch.from_numpy(plan.store.read(rows, layers=["pixels"]).pixels).to(plan.device)
            tokens_BLD = student.encode(pixels.float() / 255.0)
            pooled.append(tokens_BLD[:, student.prefix :].float().mean(1).cpu().numpy())
    student.train(was_training)
    return np.concatenate(pooled)


def _rank_me(features_NF: _Floats) -> float:
    """Return RankMe (arXiv 2210.02885, equation 2): exp of the entropy of the singular values' shares."""
    values = np.linalg.svd(features_NF.astype(np.float64), compute_uv=False)
    shares = values / max(float(values.sum()), 1e-300) + _RANKME_EPSILON
    return math.exp(-float((shares * np.log(shares)).sum()))


def _probe(student: Student, plan: TrainingPlan, held: _Ints, held_NF: _Floats) -> float | None:
    """Return the macro F1 of k-NN on labelled held-out frames; None with fewer than two classes on either side."""
    class_S, count = _classes(plan)
    stretches = plan.store.table.stretches
    class_N = class_S[stretches.at(held)[0]]
    queries = class_N >= 0
    train = first_views_of(plan.store.table, plan.split.train)
    known = train[(class_S[stretches.at(train)[0]] >= 0) & (plan.store.table.views_at(train) == 0)]
    known = _evenly(known, _NEIGHBOURS_AMONG)
    known_K = class_S[stretches.at(known)[0]]
    if len(set(class_N[queries])) < 2 or len(set(known_K)) < 2:
        return None
    predicted = knn_predict(_features(student, plan, known), known_K, held_NF[queries], _K, count)
    return _macro_f1(class_N[queries], predicted)


def _macro_f1(true: _Ints, predicted: _Ints) -> float:
    """Return the mean of 2 TP / (2 TP + FP + FN) over the classes that occur, as true or as predicted ones."""
    scores = []
    for label in np.union1d(true, predicted):
        hit = int(((true == label) & (predicted == label)).sum())
        scores.append(2 * hit / int((true == label).sum() + (predicted == label).sum()))
    return float(np.mean(scores))


def _classes(plan: TrainingPlan) -> tuple[_Ints, int]:
    """Return each source's class, int64 [S], and their number; -1 without a label. Datasets share no class."""
    numbers: dict[tuple[str, str], int] = {}
    parts: list[list[int]] = []
    for datasets, labels in plan.store.table.source_columns("dataset", "label"):
        keys = zip(datasets, labels, strict=True)
        parts.append([numbers.setdefault(key, len(numbers)) if key[1] else -1 for key in keys])
    return np.concatenate([np.array(part, np.int64) for part in parts]), len(numbers)


def _evenly(positions: _Ints, most: int) -> _Ints:
    if len(positions) <= most:
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).astype(np.int64)]
