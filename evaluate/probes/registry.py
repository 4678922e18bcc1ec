"""List the probes there are: built-in ones and those of other packages.

Those for numbers are built in alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.evaluate.extensions import Registry
from usjepa.evaluate.probes.attentive import AttentiveProbe
from usjepa.evaluate.probes.attentive_numbers import AttentiveNumbers
from usjepa.evaluate.probes.knn import KnnProbe
from usjepa.evaluate.probes.linear import LinearProbe
from usjepa.evaluate.probes.logistic import FixedLogisticProbe, LogisticProbe
from usjepa.evaluate.probes.ridge import RidgeProbe

if TYPE_CHECKING:
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.probes.base import Probe
    from usjepa.evaluate.probes.regression import Regressor

_BUILT_IN: tuple[Probe, ...] = (LinearProbe(), AttentiveProbe(), LogisticProbe(), FixedLogisticProbe(), KnnProbe())

PROBES: Registry[Probe] = Registry("usjepa.probes", ("name", "version", "described", "score"), _BUILT_IN)
"""By name; the report shows them in this order."""

_RIDGE: Regressor = RidgeProbe()
_ATTENTIVE: Regressor = AttentiveNumbers()


def regressors(settings: EvaluateSettings) -> tuple[Regressor, ...]:
    """Return the probes for numbers, in the order of the report's columns; ridge regression comes first."""
    return (_RIDGE, _ATTENTIVE) if settings.attentive else (_RIDGE,)


def register_probe(probe: Probe) -> None:
    """Add a probe to this process; UsageError where its name is taken or an attribute is missing."""
    PROBES.register(probe)
