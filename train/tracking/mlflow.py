"""Show a run in MLflow: in a database of its folder, or on a server."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from usjepa.train.tracking.tracker import numbers_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from usjepa.train.tracking.opening import About
    from usjepa.train.tracking.tracker import Line

_TAG = "usjepa.id"
_AT_ONCE = 500
"""Metrics of one request; MLflow takes 1,000, and parameters up to 100."""
_PARAMS = 100


class MLflow:
    """A run of MLflow, found again by the tracking id when a training is resumed."""

    def __init__(self, about: About) -> None:
        """Begin the run or go on with it."""
        here = f"sqlite:///{about.folder.absolute() / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or here)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "usjepa")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{about.id}'")
        if found:
            self._run = str(found[0].info.run_id)
            self._client.update_run(self._run, status="RUNNING")
        else:
            run = self._client.create_run(experiment, tags={_TAG: about.id}, run_name=about.folder.absolute().name)
            self._run = str(run.info.run_id)
            self._describe(about.recipe)

    def _describe(self, recipe: Mapping[str, object]) -> None:
        params = [Param(name, str(value)) for name, value in _flat(recipe).items()]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(self._run, params=params[start : start + _PARAMS])

    def write(self, lines: Sequence[Line]) -> None:
        """Log the numbers of lines by step, many in one request."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, line["step"]) for line in lines for name, value in numbers_of(line)]
        for start in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(self._run, metrics=metrics[start : start + _AT_ONCE])

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)


def _flat(recipe: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in recipe.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
