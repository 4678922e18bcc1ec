"""Which differences between encoders are real: paired by the same draws of patients, corrected for how many are asked.

A difference is called real when its p-value, after Holm's correction over every comparison made together, is below
0.05 and rests on ten test groups or more. Where it is not, the encoders are not shown to differ: that is not the same
as being equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.evaluate.scores.bootstrap import holm, interval, two_sided_p

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json

LEVEL = 0.05
"""Chance of one false claim in a family of comparisons."""
LEAST_GROUPS = 10
"""With fewer test groups no difference is called real: three patients who agree would give the smallest p there is."""


def differences(compared: Sequence[Mapping[str, Json]], drawn: Sequence[NDArray[np.float64]]) -> list[dict[str, Json]]:
    """Return one family of comparisons, corrected together.

    Args:
        compared: what each comparison is of; taken over as it is. Its `difference` is the difference of the scores,
            its `groups` how many test groups it rests on.
        drawn: the difference in each draw, [R], for each of them.
    """
    raw = [two_sided_p(values) for values in drawn]
    return [
        {
            **about,
            "interval": interval(values),
            "p": p,
            "p_holm": adjusted,
            "real": adjusted < LEVEL and about["groups"] >= LEAST_GROUPS,
        }
        for about, values, p, adjusted in zip(compared, drawn, raw, holm(raw), strict=True)
    ]
