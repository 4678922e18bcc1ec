"""List the probes there are: five built in, and those that other packages add."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.evaluate.extensions import Registry
from usjepa.evaluate.probes.attentive import AttentiveProbe
from usjepa.evaluate.probes.knn import KnnProbe
from usjepa.evaluate.probes.linear import LinearProbe
from usjepa.evaluate.probes.logistic import FixedLogisticProbe, LogisticProbe

if TYPE_CHECKING:
    from usjepa.evaluate.probes.base import Probe

_BUILT_IN: tuple[Probe, ...] = (LinearProbe(), AttentiveProbe(), LogisticProbe(), FixedLogisticProbe(), KnnProbe())

PROBES: Registry[Probe] = Registry("usjepa.probes", ("name", "version", "described", "score"), _BUILT_IN)
"""By name; the report shows them in this order."""


def register_probe(probe: Probe) -> None:
    """Add a probe to this process; UsageError where its name is taken or an attribute is missing."""
    PROBES.register(probe)
