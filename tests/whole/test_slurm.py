"""The job scripts of the docs run valid commands, hand on Slurm's signal, and are queued again where they can go on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import click
import pytest

from tests.support.processes.commands import LIMIT_S, wait_until
from usjepa.cache.cli import main as cache_main
from usjepa.evaluate.cli import main as evaluate_main
from usjepa.train.cli import main as train_main

SCRIPTS = Path(__file__).parents[2] / "docs/slurm"
ARGUMENTS = {"build": ("s.zarr", "in", "w.pth"), "train": ("s.zarr", "run"), "evaluate": ("run", "t.zarr", "report")}
JOB = {"build": "7_3", "train": "7", "evaluate": "7"}
NAMES = sorted(ARGUMENTS)
COMMANDS = {"usjepa-cache": cache_main, "usjepa-train": train_main, "usjepa-evaluate": evaluate_main}
RECORD = """#!/bin/bash
trap 'kill %1 2> /dev/null; exit $AT_TERM' TERM
printf '%s\\n' "${0##*/}" "$@" > "$PLACE/called"
if [ -n "$SECONDS_AT_WORK" ]; then sleep "$SECONDS_AT_WORK" & wait $!; fi
exit $AT_END
"""
REQUEUE = """#!/bin/bash
printf '%s ' "$@" > "$PLACE/requeued"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that stands before PATH, with commands that say what they were called with."""
    for name, text in (
        ("usjepa-cache", RECORD),
        ("torchrun", RECORD),
        ("usjepa-evaluate", RECORD),
        ("scontrol", REQUEUE),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def submitted(name: str, place: Path, *, at_end: int = 0, at_term: int = 75, work: str = "") -> subprocess.Popen[bytes]:
    slurm = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    told = {"PLACE": str(place), "AT_END": str(at_end), "AT_TERM": str(at_term), "SECONDS_AT_WORK": work}
    environment = {**os.environ, **slurm, **told, "PATH": f"{place}:{os.environ['PATH']}", "SLURM_GPUS_ON_NODE": "4"}
    return subprocess.Popen(["bash", str(SCRIPTS / f"{name}.sbatch"), *ARGUMENTS[name]], env=environment)


@pytest.mark.parametrize("name", NAMES)
def test_a_job_script_runs_a_command_that_is_valid(place: Path, name: str) -> None:
    assert submitted(name, place).wait(LIMIT_S) == 0
    words = (place / "called").read_text().splitlines()
    if name == "train":
        assert words[:4] == ["torchrun", "--standalone", "--nproc-per-node=4", "--no-python"]
        words = words[4:]
    command: click.Command = COMMANDS[words[0]]
    if isinstance(command, click.Group):
        command, words = command.commands[words[1]], words[1:]
    context = command.make_context(words[0], words[1:])
    assert name != "build" or context.params["part"] == "3/16"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_a_job_that_ends_by_itself_is_not_queued_again_and_keeps_its_exit_code(
    place: Path, name: str, code: int
) -> None:
    assert submitted(name, place, at_end=code).wait(LIMIT_S) == code
    assert not (place / "requeued").exists()


@pytest.mark.parametrize(("name", "code"), [("build", 75), ("evaluate", 75), ("train", 1)])
def test_a_job_that_slurm_stops_hands_the_signal_on_waits_for_the_end_and_is_queued_again(
    place: Path, name: str, code: int
) -> None:
    process = submitted(name, place, at_term=code, work="100")  # torchrun ends with 1 after a signal
    wait_until(lambda: (place / "called").exists(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == code
    assert (place / "requeued").read_text() == f"requeue {JOB[name]} "


def test_a_training_that_ends_well_although_it_was_told_to_stop_is_not_queued_again(place: Path) -> None:
    process = submitted("train", place, at_term=0, work="100")
    wait_until(lambda: (place / "called").exists(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    assert not (place / "requeued").exists()
