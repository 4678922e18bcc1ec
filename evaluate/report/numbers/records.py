"""Define what a document keeps of regression tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.identity import Json
from usjepa.evaluate.checking.leakage import Leakage
from usjepa.evaluate.probes.base import ProbeRecord
from usjepa.evaluate.probes.ridge import RIDGE
from usjepa.evaluate.scores.metrics import PackedNumbers
from usjepa.evaluate.scores.records import Record
from usjepa.evaluate.scores.regression import PackedFloats, unpacked_floats
from usjepa.evaluate.scoring.items import NumberCounts
from usjepa.evaluate.scoring.regression import MeanFloor, RegressionScores

if TYPE_CHECKING:
    from collections.abc import Mapping, Set


class NumbersRecord(Record):
    """What is scored of the test, for comparisons between reports."""

    values: PackedFloats
    """True numbers separated by spaces."""
    groups: PackedNumbers
    digest: str
    """Of which frames these are, the same in every store that holds them."""


class RegressionTask(Record):
    """A regression task."""

    name: str
    quantity: str
    unit: str
    """Of the numbers, as "mm"; "" where the data does not say."""
    scored: str
    """What is scored: `evaluate.unit`."""
    counts: dict[str, NumberCounts]
    """Split -> what it holds."""
    notes: tuple[str, ...]
    layout: str
    split_origin: dict[str, str]
    identity: dict[str, Json]
    leakage: Leakage
    test: NumbersRecord
    floor: MeanFloor


class RegressionRecord(Record):
    """Which numbers were predicted."""

    probes: dict[str, ProbeRecord] = {}
    """In the order of the report's columns; ridge regression first."""
    tasks: tuple[RegressionTask, ...] = ()
    scores: tuple[RegressionScores, ...] = ()

    def ranked(self, task: str) -> list[RegressionScores]:
        """Return a task's scores, lowest mean absolute error first; equal ones in the table's order."""
        here = (s for s in self.scores if s.task == task)
        return sorted(here, key=lambda s: s.primary.measures["mae"].mean)

    def find(self, task: str, encoder: str) -> RegressionScores | None:
        """Return the scores of an encoder on a task; None where it has none."""
        return next((s for s in self.scores if s.task == task and s.encoder == encoder), None)

    def faults(self, encoders: Mapping[str, Set[str]]) -> list[str]:
        """Return which scores don't belong to the rest, as clauses; none: all do.

        Args:
            encoders: the tasks that each encoder of the document was used on.
        """
        tasks = {task.name: len(unpacked_floats(task.test.values)) for task in self.tasks}
        found = []
        for scores in self.scores:
            pair = f"{scores.encoder} on {scores.task}"
            if scores.task not in tasks or scores.task not in encoders.get(scores.encoder, ()):
                found.append(f"it has scores of {pair}, but not both of them")
                continue
            if RIDGE not in scores.probes or not set(scores.probes) <= set(self.probes):
                found.append(f"the probes of {pair} are not those of the report")
            for name, probe in scores.probes.items():
                lengths = {len(unpacked_floats(one)) for one in probe.predicted}
                if lengths != {tasks[scores.task]}:
                    found.append(f"{name} of {pair} does not predict its test")
                if not {"mae", "rmse"} <= set(probe.measures):
                    found.append(f"{name} of {pair} has no errors")
        return found
