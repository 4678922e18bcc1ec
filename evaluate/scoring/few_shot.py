"""Few-shot: how much is left with 1, 5, 10 or 50 % of the training labels.

Each probe seed is a draw: its own labelled frames, its own first weights. Frames are drawn class by class, at least one
of each class, and smaller draws lie within larger ones. Standardisation still looks at all training frames, which needs
no label, and early stopping at the whole validation split, as nothing else is said by the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.randomness import keyed_generator
from usjepa.evaluate.probes.linear import train_probe
from usjepa.evaluate.scores.metrics import score, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.scoring.linear import Data

_TAG = 0x666577


def few_shot(data: Data, groups_N: NDArray[np.int64], settings: EvaluateSettings) -> list[dict[str, Json]]:
    """Return the probe's scores at each share of the training labels, rising; all labels are the probe proper.

    Args:
        data: an encoder's features.
        groups_N: group of each training frame, to say how many patients a draw holds.
        settings: the shares and the protocol.
    """
    return [_at(share, data, groups_N, settings) for share in sorted(settings.few_shot)]


def _at(share: float, data: Data, groups_N: NDArray[np.int64], settings: EvaluateSettings) -> dict[str, Json]:
    subsets_SM = np.stack([subset(data.train_labels, share, draw) for draw in range(settings.seeds)])
    probe = train_probe(
        data.train,
        data.train_labels,
        data.validation,
        data.validation_labels,
        data.classes,
        settings,
        subsets_SM,
    )
    predicted_SN = probe.logits(data.test).argmax(axis=2).astype(np.int64)
    values = [score(data.test_labels, one, data.classes).macro_f1 for one in predicted_SN]
    mean, deviation = spread(values)
    return {
        "share": share,
        "frames": int(subsets_SM.shape[1]),
        "groups": [len(np.unique(groups_N[rows])) for rows in subsets_SM],
        "macro_f1": {"mean": mean, "sd": deviation, "seeds": values},
    }


def subset(labels_N: NDArray[np.int64], share: float, draw: int) -> NDArray[np.int64]:
    """Return the positions of a draw's frames, ascending: of each class that share, rounded, at least one frame."""
    generator = keyed_generator(_TAG, draw)
    chosen = []
    for number in np.unique(labels_N):
        shuffled = generator.permutation(np.flatnonzero(labels_N == number))
        chosen.append(shuffled[: max(1, round(share * len(shuffled)))])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
