"""The log: what a checkpoint covers is kept, what lies behind it is removed, and memory does not grow with steps."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from usjepa.cache.errors import TrainingError
from usjepa.train.record.history import RECENT, LossCurve
from usjepa.train.record.log import RunLog, read_log

if TYPE_CHECKING:
    from pathlib import Path

PER_EPOCH = 1000


def step_line(step: int, loss: float | None = None) -> Any:
    return {
        "kind": "step", "step": step, "epoch": step // PER_EPOCH, "loss": 1.0 / (step + 1) if loss is None else loss,
        "lr": 1e-4, "wd": 0.05, "grad_norm": 1.5, "images": 128, "unusable": 1, "batch": f"{step:016x}",
        "images_per_s": 100.0, "data_wait_s": 0.125,
    }  # fmt: skip


def validation_line(epoch: int) -> Any:
    return {"kind": "validation", "epoch": epoch, "step": (epoch + 1) * PER_EPOCH, "loss": 1.0 / (epoch + 1)}


def write_steps(log: RunLog, first: int, count: int) -> None:
    for step in range(first, first + count):
        log.write(step_line(step))
        if step % PER_EPOCH == PER_EPOCH - 1:
            log.write(validation_line(step // PER_EPOCH))


def grown_kb(path: Path, steps: int) -> float:
    """Return the kilobytes that opening a log and writing further steps leaves in memory."""
    tracemalloc.start()
    log = RunLog(path, 0 if not path.exists() else len(read_log(path)), 10**9)
    write_steps(log, 0, steps)
    found = tracemalloc.get_traced_memory()[0] / 1e3
    tracemalloc.stop()
    log.close()
    return found


def test_memory_does_not_grow_with_the_steps_written(tmp_path: Path) -> None:
    few, many = (grown_kb(tmp_path / f"{steps}.jsonl", steps) for steps in (5_000, 40_000))
    assert many - few < 100  # one validation line per 1,000 steps stays


def test_opening_a_long_log_keeps_no_step_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path, 0, 0)
    write_steps(log, 0, 20_000)
    log.close()
    tracemalloc.start()
    again = RunLog(path, 20_000, 20)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    again.close()
    assert path.stat().st_size > 4e6
    assert held < 500e3
    assert peak < 600e3
    assert again.history.totals.steps == 20_000


def test_the_history_of_a_resumed_log_is_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path, 0, 0)
    write_steps(log, 0, 3456)
    log.close()
    resumed = RunLog(path, 2500, 2)
    write_steps(resumed, 2500, 956)
    resumed.close()
    assert list(resumed.history.recent) == list(log.history.recent) == [1.0 / (s + 1) for s in range(3356, 3456)]
    assert resumed.history.checks == log.history.checks
    assert resumed.history.totals == log.history.totals
    for mine, other in zip(resumed.history.curve.points(), log.history.curve.points(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_lines_behind_a_checkpoint_and_a_cut_one_are_removed_and_the_rest_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path, 0, 0)
    write_steps(log, 0, PER_EPOCH + 10)
    log.close()
    before = path.read_bytes()
    path.write_bytes(before + b'{"kind": "st')
    RunLog(path, PER_EPOCH + 10, 1).close()
    assert path.read_bytes() == before
    RunLog(path, PER_EPOCH, 0).close()  # stopped in the validation of the first epoch
    assert [line["kind"] for line in read_log(path)] == ["step"] * PER_EPOCH
    assert before.startswith(path.read_bytes())


@pytest.mark.parametrize(
    "line", [b"\0\0\0\0\n", b'{"kind": "step"}\n', b"[]\n"], ids=["zeroed", "without step", "list"]
)
def test_a_line_that_training_did_not_write_is_named_by_its_place(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.jsonl"
    first = (json.dumps(step_line(0)) + "\n").encode()
    path.write_bytes(first + line + first)
    with pytest.raises(TrainingError, match=rf"log\.jsonl: the line at byte {len(first)} "):
        RunLog(path, 10, 0)


def test_the_curve_is_made_of_the_losses_themselves_and_then_of_means_over_equally_many_steps() -> None:
    curve, losses = LossCurve(most=8), np.random.default_rng(0).random(21)
    for step, loss in enumerate(losses[:7]):
        curve.add(step, loss)
    assert curve.points()[1].tolist() == losses[:7].tolist()
    for step, loss in enumerate(losses[7:], 7):
        curve.add(step, loss)
    steps, means = curve.points()
    assert (curve.width, len(means)) == (4, 6)
    np.testing.assert_allclose(steps, [1.5, 5.5, 9.5, 13.5, 17.5, 20])
    np.testing.assert_allclose(means[:5], losses[:20].reshape(5, 4).mean(1))
    assert means[5] == losses[20]


def test_the_median_of_an_explosion_is_of_the_last_losses_alone(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", 0, 0)
    for step in range(3 * RECENT):
        log.write(step_line(step, loss=float(step)))
        log.write(validation_line(step))
    log.close()
    assert list(log.history.recent) == [float(step) for step in range(2 * RECENT, 3 * RECENT)]
