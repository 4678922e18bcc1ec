"""Trackers show the log's numbers, and one that is slow, dead, broken or not installed never costs a run its end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes.commands import run_python
from tests.support.runs import numbers, recipe
from usjepa.cache.errors import UsageError
from usjepa.train.run.loop import train
from usjepa.train.tracking.background import _WAITING, Background
from usjepa.train.tracking.tracker import numbers_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from usjepa.train.tracking.tracker import Line

LINES = [{"kind": "step", "step": step, "loss": float(step)} for step in range(1200)]

_TRAIN = """
import sys
from tests.support.runs import recipe
from usjepa.cache.command_line import log_lines_on_stderr
from usjepa.train.run.loop import train
with log_lines_on_stderr():
    for stop in (7, None):
        train(sys.argv[1], sys.argv[2], recipe("train.trackers=[wandb, mlflow]"), "cpu", stop)
"""


class Kept:
    """A tracker that keeps what it takes."""

    def __init__(self, wait: threading.Event | None = None, fails_at: int = -1) -> None:
        self.lines: list[Line] = []
        self.closed = False
        self._wait, self._fails_at = wait, fails_at

    def write(self, lines: Sequence[Line]) -> None:
        if self._wait is not None:
            self._wait.wait()
        self.lines += lines
        if 0 <= self._fails_at < len(self.lines):
            raise ConnectionError("no route\nto host")

    def close(self) -> None:
        self.closed = True


def test_losses_of_several_targets_are_numbers_of_their_own_and_what_is_no_number_is_left_out() -> None:
    line = {"kind": "step", "step": 3, "epoch": 0, "loss": 0.5, "lr": None, "batch": "00ff", "sum": "ab", "images": 8,
            "losses": {"urfm.4": 1.0, "urfm.8": 2.0}}  # fmt: skip
    assert dict(numbers_of(line)) == {
        "train/loss": 0.5, "train/images": 8.0, "train/losses/urfm.4": 1.0, "train/losses/urfm.8": 2.0,
    }  # fmt: skip
    assert dict(numbers_of({"kind": "validation", "step": 3, "best": True, "knn": 0.25})) == {"validation/knn": 0.25}


def test_a_tracker_in_the_background_takes_every_line_in_order() -> None:
    kept = Kept()
    background = Background("it", lambda: kept)
    for line in LINES:
        background.write((line,))
    background.close()
    assert kept.lines == LINES
    assert kept.closed


@pytest.mark.parametrize("fails_at", [0, 5])
def test_a_tracker_that_fails_is_told_once_on_one_line_and_nothing_is_raised(said: list[str], fails_at: int) -> None:
    background = Background("it", lambda: Kept(fails_at=fails_at))
    for line in LINES:
        background.write((line,))
    background.close()
    (told,) = [line for line in said if line.startswith("it ")]
    assert told == "it takes no more (no route to host). The run goes on; log.jsonl has everything."


def test_a_tracker_that_cannot_be_opened_is_told(said: list[str]) -> None:
    def opened() -> Kept:
        raise RuntimeError("no login")

    background = Background("it", opened)
    background.close()
    assert [line for line in said if "it takes no more (no login)" in line]


def test_a_tracker_that_never_answers_holds_up_neither_the_steps_nor_the_end(said: list[str]) -> None:
    never = threading.Event()
    background = Background("it", lambda: Kept(never), last_s=0.2)
    began = time.monotonic()
    for _ in range(_WAITING // len(LINES) + 2):
        background.write(LINES)
    background.close()
    assert time.monotonic() - began < 60  # it would wait for ever
    assert [line for line in said if "did not take the last lines within 0.2 s" in line]
    never.set()


def test_a_service_whose_package_is_missing_is_refused_before_a_step(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'usjepa\[mlflow\]'"):
        train(str(phantom_store), str(tmp_path / "run"), recipe("train.trackers=[mlflow]"), "cpu")


@pytest.mark.slow
def test_a_stopped_and_resumed_run_is_one_run_offline_in_weights_and_biases_and_in_mlflow(
    phantom_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_python("-c", _TRAIN, phantom_store, run, env={"OMP_NUM_THREADS": "1"})
    told = _mlflow_losses(run)
    assert told == pytest.approx({line["step"]: line["loss"] for line in numbers(run)})
    offline = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    name = (run / "tracking_id").read_text().strip()
    assert {file.name for file in offline} == {f"run-{name}.wandb"}
    assert all(b"train/loss" in file.read_bytes() for file in offline)


@pytest.mark.slow
def test_a_server_that_is_not_there_stops_no_run(phantom_store: Path, tmp_path: Path) -> None:
    env = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "OMP_NUM_THREADS": "1"}
    program = _TRAIN.replace("wandb, mlflow", "mlflow").replace("(7, None)", "(None,)")
    ended = run_python("-c", program, phantom_store, tmp_path / "run", env=env)
    assert ended.stderr.count("MLflow takes no more (") == 1
    assert (tmp_path / "run/model.safetensors").exists()


_ASK = """
import json, sys, warnings
warnings.simplefilter("ignore")
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=f"sqlite:///{sys.argv[1]}/mlflow.db")
experiment = client.get_experiment_by_name("usjepa").experiment_id
(run,) = client.search_runs([experiment])
assert run.info.status == "FINISHED" and run.data.params["lr"] == "0.002"
print(json.dumps({m.step: m.value for m in client.get_metric_history(run.info.run_id, "train/loss")}))
"""


def _mlflow_losses(run: Path) -> dict[int, float]:
    import json

    told: dict[str, Any] = json.loads(run_python("-c", _ASK, run).stdout.splitlines()[-1])
    return {int(step): value for step, value in told.items()}
