"""Score the linear probe with 1, 5, 10 or 50 % of the training labels.

Each probe seed is a draw: its own labelled frames, its own first weights. Frames are drawn class by class, at least one
of each class, and smaller draws lie within larger ones. Standardisation still looks at all training frames, which needs
no label, and early stopping at the whole validation split, as the paper states nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.evaluate.probes.base import Predictions, classes_of
from usjepa.evaluate.probes.linear import train_probes
from usjepa.evaluate.scores.metrics import over_seeds, score, softmax
from usjepa.evaluate.scores.records import Measure, Record
from usjepa.evaluate.scoring.gathering import gathered
from usjepa.evaluate.tasks.splits import TRAIN, stratified_draw

if TYPE_CHECKING:
    from usjepa.evaluate.probes.base import ProbeInput
    from usjepa.evaluate.scores.units import Units


class FewShot(Record):
    """The probe's score at one share of the training labels."""

    share: float
    frames: int
    """Labelled frames of a draw."""
    groups: tuple[int, ...]
    """Patients or clips of each draw."""
    macro_f1: Measure


def few_shot(given: ProbeInput, units: Units | None = None) -> tuple[FewShot, ...]:
    """Return the probe's scores at each share of `evaluate.few_shot`, rising; all labels are the probe proper.

    Args:
        given: what probes are given.
        units: clips or patients of the test frames, whose predictions are gathered; None: frames are scored.
    """
    return tuple(_at(share, given, units) for share in sorted(given.settings.few_shot))


def _at(share: float, given: ProbeInput, units: Units | None) -> FewShot:
    train, test, classes, settings = given.train, given.test, given.classes, given.settings
    subsets_SM = np.stack([stratified_draw(train.y, share, draw) for draw in range(settings.seeds)])
    probes = train_probes(train, given.validation, classes, settings, subsets_SM)
    groups_N = given.task.groups[given.task.positions(TRAIN)]
    logits_SNC = probes.logits(test.x)
    made = gathered(Predictions(classes_of(logits_SNC), softmax(logits_SNC)), units, classes)
    truth = test.y if units is None else test.y[units.first]
    return FewShot(
        share=share,
        frames=int(subsets_SM.shape[1]),
        groups=tuple(len(np.unique(groups_N[rows])) for rows in subsets_SM),
        macro_f1=over_seeds([score(truth, one, classes).macro_f1 for one in made.predicted_SN]),
    )
