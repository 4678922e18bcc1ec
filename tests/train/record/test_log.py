"""The log: every line proves itself, what is lost is named, and memory does not grow with steps."""

from __future__ import annotations

import json
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from usjepa.cache.errors import DamageError
from usjepa.train.record.history import RECENT, History, LossCurve
from usjepa.train.record.log import LogMark, RunLog, read_log
from usjepa.train.record.salvage import Covered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PER_EPOCH = 1000
NOTHING = Covered(0, 0)


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


def covered(log: RunLog, validated: int) -> tuple[Covered, LogMark]:
    """What a checkpoint would hold of a log."""
    history = History.from_json(json.loads(json.dumps(log.history.to_json())))
    return Covered(log.history.steps, validated, history), log.sync()


def written(path: Path, steps: int) -> tuple[Covered, LogMark]:
    """Write a log and return what the checkpoint at its end would hold of it."""
    log = RunLog(path, NOTHING)
    write_steps(log, 0, steps)
    found = covered(log, steps // PER_EPOCH)
    log.close()
    return found


def test_a_line_is_not_written_without_the_runs_claim(tmp_path: Path) -> None:
    held = True

    def guard() -> None:
        if not held:
            raise RuntimeError("the claim is another's")

    log = RunLog(tmp_path / "log.jsonl", NOTHING, guard=guard)
    log.write(step_line(0))
    before = (tmp_path / "log.jsonl").read_bytes()
    held = False
    with pytest.raises(RuntimeError, match="another's"):
        log.write(step_line(1))
    assert (tmp_path / "log.jsonl").read_bytes() == before
    log.close()


def grown_kb(path: Path, steps: int) -> float:
    """Return the kilobytes that opening a log and writing further steps leaves in memory."""
    tracemalloc.start()
    log = RunLog(path, NOTHING)
    write_steps(log, 0, steps)
    found = tracemalloc.get_traced_memory()[0] / 1e3
    tracemalloc.stop()
    log.close()
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps_written(tmp_path: Path) -> None:
    few, many = (grown_kb(tmp_path / f"{steps}.jsonl", steps) for steps in (5_000, 40_000))
    assert many - few < 100  # one validation line per 1,000 steps stays


@pytest.mark.parametrize("state", ["whole", "damaged", pytest.param("of an earlier version", marks=pytest.mark.slow)])
def test_opening_a_long_log_keeps_no_step_in_memory(tmp_path: Path, state: str) -> None:
    path = tmp_path / "log.jsonl"
    stored: tuple[Any, ...] = written(path, 10_000)
    if state == "damaged":
        flip(path, 1_000_000)
    elif state == "of an earlier version":
        stored = (Covered(10_000, 10),)
    tracemalloc.start()
    again = RunLog(path, *stored)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    again.close()
    assert path.stat().st_size > 2e6
    assert held < 500e3
    assert peak < 1.2e6  # pieces of 256 KiB
    assert again.history.totals.steps == 10_000


def test_the_history_of_a_resumed_log_is_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path, NOTHING)
    write_steps(log, 0, 2500)
    stored = covered(log, 2)
    write_steps(log, 2500, 956)
    log.close()
    resumed = RunLog(path, *stored)
    write_steps(resumed, 2500, 956)
    resumed.close()
    assert list(resumed.history.recent) == list(log.history.recent) == [1.0 / (s + 1) for s in range(3356, 3456)]
    assert resumed.history.checks == log.history.checks
    assert resumed.history.totals == log.history.totals
    for mine, other in zip(resumed.history.curve.points(), log.history.curve.points(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_lines_behind_a_checkpoint_and_a_cut_one_are_removed_and_the_rest_keeps_its_bytes(
    tmp_path: Path, said: list[str]
) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path, NOTHING)
    write_steps(log, 0, PER_EPOCH - 1)
    before_the_validation = covered(log, 0)
    write_steps(log, PER_EPOCH - 1, 11)
    stored = covered(log, 1)
    log.close()
    before = path.read_bytes()
    path.write_bytes(before + b'{"kind": "st')
    again = RunLog(path, *stored)
    again.sync()
    again.close()
    assert path.read_bytes() == before
    again = RunLog(path, *before_the_validation)
    again.sync()
    again.close()
    assert [line["kind"] for line in read_log(path)] == ["step"] * (PER_EPOCH - 1)
    assert before.startswith(path.read_bytes())
    assert not said


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def zero(path: Path, first: int, count: int) -> None:
    data = bytearray(path.read_bytes())
    data[first : first + count] = bytes(count)
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_in_a_log_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path, NOTHING)
    for step in range(2):
        log.write(step_line(step))
    log.close()
    whole, noticed = path.read_bytes(), 0
    for at in range(len(whole)):
        for bit in (1, 128):
            data = bytearray(whole)
            data[at] ^= bit
            path.write_bytes(data)
            line = whole[:at].count(b"\n") + 1
            if at == len(whole) - 1:  # without its end the last line is one that was cut off
                assert len(list(read_log(path))) == 1
                continue
            with pytest.raises(DamageError, match=rf"log\.jsonl: line {line} "):
                list(read_log(path))
            noticed += 1
    assert noticed == 2 * (len(whole) - 1)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": lambda path: flip(path, 100_000),
    "a digit of a loss": lambda path: flip(path, path.read_bytes().index(b'"loss": 0.0') + 11),
    "no utf-8": lambda path: flip(path, 100_000, 128),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "tail of zeros": lambda path: zero(path, path.stat().st_size - 4096, 4096),
    "page of zeros": lambda path: zero(path, 4096, 4096),
    "null line": lambda path: path.write_bytes(b"null\n" + path.read_bytes()),
    "deep nesting": lambda path: path.write_bytes(b"[" * 60_000 + b"\n" + path.read_bytes()),
    "a line gone": lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:])),
    "lines swapped": lambda path: path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True)))),
    "twice": lambda path: path.write_bytes(2 * path.read_bytes()[:-1] + b"\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("running", [False, True], ids=["at a resume", "under the running training"])
def test_a_damaged_log_is_said_and_holds_every_whole_line_every_validation_and_the_gaps(
    tmp_path: Path, said: list[str], damage: str, running: bool
) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path, NOTHING)
    write_steps(log, 0, 2500)
    stored = covered(log, 2)
    before = list(read_log(path))
    if not running:
        log.close()
    DAMAGES[damage](path)
    if not running:
        log = RunLog(path, *stored)
    else:
        log.sync(thorough=True)
    log.write(step_line(2500))
    log.sync(thorough=True)
    log.close()
    assert "log.jsonl: was " in "".join(said)
    after = list(read_log(path))
    lost = {line["step"] + n for line in after if line["kind"] == "lost" for n in range(line["steps"])}
    assert [line["step"] for line in after if line["kind"] == "step"] == [n for n in range(2501) if n not in lost]
    assert [line for line in after if line["kind"] == "validation"] == [validation_line(0), validation_line(1)]
    assert [line for line in after if line["kind"] == "step"][:-1] == [
        line for line in before if line["kind"] == "step" and line["step"] not in lost
    ]
    positions = [line["step"] - (line["kind"] == "validation") / 2 for line in after]
    assert positions == sorted(positions)
    assert not lost or any(f"whose lines are lost: {len(lost):,} (" in line for line in said)
    assert list(log.history.recent) == [1.0 / (step + 1) for step in range(2401, 2501)]


def test_a_log_removed_under_a_running_training_is_whole_again(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path, NOTHING)
    write_steps(log, 0, 100)
    before = path.read_bytes()
    path.unlink()
    log.sync()
    assert path.read_bytes() == before
    assert "it is whole again" in said[0]
    log.write(step_line(100))
    log.close()
    assert len(list(read_log(path))) == 101


def test_a_log_of_an_earlier_version_gets_sums_and_its_gaps_are_named(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "log.jsonl"
    lines = [json.dumps(step_line(step)) for step in range(20)]
    path.write_text("".join(f"{line}\n" for line in lines if '"step": 7,' not in line))
    assert len(list(read_log(path))) == 19
    log = RunLog(path, Covered(18, 0))
    log.close()
    assert [line["step"] for line in read_log(path)] == list(range(18))
    assert '"sum": "' in path.read_text().splitlines()[0]
    assert "lines of an earlier version, without sums: 19" in said[0]
    assert "steps whose lines are lost: 1 (7 to 7)" in said[1]


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
    log = RunLog(tmp_path / "log.jsonl", NOTHING)
    for step in range(3 * RECENT):
        log.write(step_line(step, loss=float(step)))
        log.write(validation_line(step))
    log.close()
    assert list(log.history.recent) == [float(step) for step in range(2 * RECENT, 3 * RECENT)]
