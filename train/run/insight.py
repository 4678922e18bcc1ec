"""What the loss does not tell: whether the encoder collapses, and whether its features know anything.

Within one teacher a lower loss means a better student (arXiv 2509.24317, section 4), between settings it means little.
So validation also measures, on whole held-out frames: RankMe, the spread of the features, and every few epochs, where
there are labels, a k-NN probe from training frames to held-out groups.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from usjepa.train.run.knn import knn_predict

if TYPE_CHECKING:
    from usjepa.train.model.student import Student
    from usjepa.train.record.log import Line
    from usjepa.train.run.plan import Plan

HELD_OUT = 1024
"""Held-out frames that are looked at, at most."""
NEIGHBOURS_AMONG = 2048
"""Training frames that the k-NN probe may choose from."""
K = 20
_AT_ONCE = 64
_RANKME_EPSILON = 1e-7

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def look(student: Student, plan: Plan, epoch: int) -> Line:
    """Return what is measured at an epoch's end; {} without held-out frames.

    `rankme`, `feature_std`, and at every `train.knn_every`-th epoch and the last `knn` (macro F1, 0 to 1).
    """
    held = _evenly(plan.validation_rows, HELD_OUT)
    if len(held) < 2:
        return {}
    features_NF = features(student, plan, held)
    line: Line = {"rankme": round(rank_me(features_NF), 3), "feature_std": round(float(features_NF.std(0).mean()), 6)}
    every = plan.settings.knn_every
    if every and ((epoch + 1) % every == 0 or epoch + 1 == plan.settings.epochs):
        score = _probe(student, plan, held, features_NF)
        if score is not None:
            line["knn"] = round(score, 4)
    return line


def features(student: Student, plan: Plan, positions: Ints) -> Floats:
    """Mean patch tokens of whole frames, float32 [N, D]."""
    was_training = student.training
    student.eval()
    pooled = []
    with torch.no_grad():
        for start in range(0, len(positions), _AT_ONCE):
            rows = plan.store.rows[positions[start : start + _AT_ONCE]]
            pixels = torch.from_numpy(plan.store.read(rows, layers=["pixels"]).pixels).to(plan.device)
            tokens_BLD = student.encode(pixels.float() / 255.0)
            pooled.append(tokens_BLD[:, student.prefix :].float().mean(1).cpu().numpy())
    student.train(was_training)
    return np.concatenate(pooled)


def rank_me(features_NF: Floats) -> float:
    """RankMe (arXiv 2210.02885, equation 2): exp of the entropy of the singular values' shares, at most min(N, F)."""
    values = np.linalg.svd(features_NF.astype(np.float64), compute_uv=False)
    shares = values / max(float(values.sum()), 1e-300) + _RANKME_EPSILON
    return math.exp(-float((shares * np.log(shares)).sum()))


def _probe(student: Student, plan: Plan, held: Ints, held_NF: Floats) -> float | None:
    """Macro F1 of k-NN on the labelled held-out frames; None when fewer than two classes are on either side."""
    classes_R, count = _classes(plan)
    queries = classes_R[held] >= 0
    known = plan.split.train[(classes_R[plan.split.train] >= 0) & (plan.store.table.view[plan.split.train] == 0)]
    known = _evenly(known, NEIGHBOURS_AMONG)
    if len(set(classes_R[held][queries])) < 2 or len(set(classes_R[known])) < 2:
        return None
    predicted = knn_predict(features(student, plan, known), classes_R[known], held_NF[queries], K, count)
    return macro_f1(classes_R[held][queries], predicted)


def macro_f1(true: Ints, predicted: Ints) -> float:
    """Mean over the classes that are there, in either, of 2 TP / (2 TP + FP + FN)."""
    scores = []
    for label in np.union1d(true, predicted):
        hit = int(((true == label) & (predicted == label)).sum())
        scores.append(2 * hit / int((true == label).sum() + (predicted == label).sum()))
    return float(np.mean(scores))


def _classes(plan: Plan) -> tuple[Ints, int]:
    """A class for each row of the table, int64; -1 without a label. Labels of two datasets are two classes."""
    table = plan.store.table
    numbers: dict[tuple[str, str], int] = {}
    of_source = np.full(len(table.sources), -1, np.int64)
    for number, source in enumerate(table.sources):
        if source.label:
            of_source[number] = numbers.setdefault((source.dataset, source.label), len(numbers))
    return of_source[table.source], len(numbers)


def _evenly(positions: Ints, most: int) -> Ints:
    if len(positions) <= most:
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).astype(np.int64)]
