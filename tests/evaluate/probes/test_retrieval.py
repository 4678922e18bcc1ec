"""Claims about recall at k: of other patients only, as a plain loop counts it."""

from __future__ import annotations

import numpy as np
import pytest

from usjepa.evaluate.probes.base import Part
from usjepa.evaluate.probes.knn import RECALLS, _recalls, first_hits
from usjepa.evaluate.scores.bootstrap import Draws


def test_recall_is_that_of_a_plain_loop_over_other_patients() -> None:
    rng = np.random.default_rng(0)
    train = Part(rng.standard_normal((60, 5)).astype(np.float32), rng.integers(0, 6, 60))
    test = Part(rng.standard_normal((40, 5)).astype(np.float32), rng.integers(0, 6, 40))
    groups = (rng.integers(0, 12, 60), rng.integers(0, 12, 40))
    found = first_hits(train, test, groups)
    for query in range(40):
        others = np.flatnonzero(groups[0] != groups[1][query])
        cosine = [
            float(test.x[query] @ train.x[i] / np.linalg.norm(test.x[query]) / np.linalg.norm(train.x[i]))
            for i in others
        ]
        ranked = others[np.argsort(-np.array(cosine), kind="stable")][:10]
        hits = np.flatnonzero(train.y[ranked] == test.y[query])
        assert found[query] == (hits[0] if len(hits) else 10)
    made = _recalls(found, Draws(groups[1], 500))
    for k in RECALLS:
        one = made[f"recall_at_{k}"]
        assert one.mean == np.mean(found < k)
        assert one.interval is not None
        assert one.interval[0] <= one.mean <= one.interval[1]


def test_a_frame_of_the_same_patient_is_never_what_is_found() -> None:
    x = np.eye(3, dtype=np.float32)
    train = Part(np.concatenate([x, x]), np.array([0, 1, 2, 1, 2, 0]))
    test = Part(x, np.array([0, 1, 2]))
    groups = (np.array([7, 7, 7, 8, 8, 8]), np.array([7, 7, 7]))
    # The copies of patient 7 are of the right class, and barred; those of patient 8 are of another.
    assert (first_hits(train, test, groups) > 0).all()
    assert (first_hits(train, test, (groups[0] + 2, groups[1])) == 0).all()


@pytest.mark.parametrize("frames", [1, 4])
def test_few_training_frames_and_one_patient_alone_are_no_hits(frames: int) -> None:
    train = Part(np.ones((frames, 2), np.float32), np.zeros(frames, np.int64))
    test = Part(np.ones((2, 2), np.float32), np.zeros(2, np.int64))
    one = np.zeros(frames, np.int64)
    assert first_hits(train, test, (one, np.array([0, 1]))).tolist() == [10, 0]
    assert _recalls(np.array([10, 0]), Draws(np.array([0, 0]), 100))["recall_at_1"].interval is None
