"""A training that was stopped, overtaken, or lost its folder writes nothing more; what it left proves itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from tests.support.builds import tree
from tests.support.processes import forked
from tests.support.processes.commands import wait_until
from tests.support.runs import EVERY_STEP, numbers, recipe
from usjepa.cache.command_line import ends_well
from usjepa.cache.errors import DamageError, TrainingError
from usjepa.cache.storage import claims
from usjepa.train.record import log
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path


def trained(store: str, run: str, *overrides: str) -> None:
    import torch

    torch.set_num_threads(1)
    ends_well(train)(store, run, recipe(EVERY_STEP, *overrides), "cpu")


def impatient(store: str, run: str) -> None:
    """Take over soon from one that does not move."""
    claims.TAKEOVER_S = 0.3
    trained(store, run)


def stopped_at_durable_step(store: str, run: str, step: int) -> None:
    forked.signal_at_durable_step(step, signal.SIGSTOP)
    trained(store, run)


def killed(store: str, run: str, step: int) -> None:
    forked.die_at_durable_step(step)
    trained(store, run)


def interrupted(store: str, run: str) -> None:
    forked.signal_at_durable_step(40, signal.SIGINT)
    trained(store, run)


def stopped_at_removal(store: str, run: str, call: int) -> None:
    """Stop where an old checkpoint is about to be removed."""
    real, count = os.unlink, 0

    def unlink(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count == call:
            forked.stop_here()
        real(*args, **kwargs)

    os.unlink = unlink
    trained(store, run)


def stopped_at_line(store: str, run: str, line: int) -> None:
    """Stop between the look at the claim and the writing of a line of the log."""
    real, count = vars(log)["to_text"], 0

    def to_text(*args: Any) -> bytes:
        nonlocal count
        count += 1
        if count == line:
            forked.stop_here()
        return real(*args)

    vars(log)["to_text"] = to_text
    trained(store, run)


@pytest.fixture(scope="module")
def undisturbed(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert forked.run(trained, str(phantom_store), str(run)) == 0
    return run


def assert_same(run: Path, other: Path) -> None:
    for kind in ("step", "validation", "lost"):
        assert numbers(run, kind) == numbers(other, kind)
    for name in ("model.safetensors", "recipe.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
    assert {path.name for path in (run / "state").iterdir()} == {path.name for path in (other / "state").iterdir()}


QUICK = [
    pytest.param(stopped_at_durable_step, 32, False, id="overtaken before a rename"),
    pytest.param(stopped_at_line, 8, False, id="overtaken before a line"),
    pytest.param(stopped_at_removal, 5, True, id="its folder begun anew before a removal"),
]
STOPS = ((stopped_at_durable_step, range(8, 128, 6)), (stopped_at_line, (2, 9)), (stopped_at_removal, (2, 7)))
SLOW = [
    pytest.param(stop, at, deleted, marks=pytest.mark.slow)
    for deleted in (False, True)
    for stop, moments in STOPS
    for at in moments
]


@pytest.mark.parametrize(("stop", "at", "deleted"), [*QUICK, *SLOW])
def test_a_training_stopped_and_woken_later_writes_nothing_over_its_successor(
    phantom_store: Path,
    undisturbed: Path,
    tmp_path: Path,
    stop: Any,
    at: int,
    deleted: bool,
) -> None:
    run = tmp_path / "run"
    sleeper = forked.start(stop, str(phantom_store), str(run), at, stderr=tmp_path / "told")
    try:
        wait_until(partial(forked.is_stopped, sleeper), sleeper)
        if deleted:
            shutil.rmtree(run)
        assert not deleted or not run.exists()
        assert forked.run(impatient, str(phantom_store), str(run)) == 0
        after = tree(run)
        os.kill(sleeper.pid, signal.SIGCONT)  # type: ignore[arg-type]
        sleeper.join(120)
    finally:
        sleeper.kill()
    told = (tmp_path / "told").read_text()
    assert sleeper.exitcode == 1, told
    assert "error: " in told
    assert "Traceback" not in told
    assert tree(run) == after
    assert_same(run, undisturbed)


def test_a_training_whose_folder_is_removed_ends_with_a_message_and_leaves_it_removed(
    phantom_store: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = forked.start(trained, str(phantom_store), str(run), "train.epochs=1000", stderr=tmp_path / "told")
    try:
        wait_until(lambda: (run / "log.jsonl").exists() and len(numbers(run)) > 3, first)
        run.rename(tmp_path / "aside")  # all at once; rmtree would race with the training's own renames
        shutil.rmtree(tmp_path / "aside", ignore_errors=True)
        assert forked.run(trained, str(phantom_store), str(run)) == 0  # beside the first, which lives or has noticed
        first.join(120)
    finally:
        first.kill()
    assert first.exitcode == 1
    told = (tmp_path / "told").read_text()
    assert "nothing more is written from here" in told.lower()
    assert "Traceback" not in told
    assert_same(run, undisturbed)


@pytest.mark.parametrize("step", [3, *[pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, *range(4, 11))]])
def test_a_training_killed_before_its_first_checkpoint_begins_again(
    phantom_store: Path, undisturbed: Path, tmp_path: Path, step: int
) -> None:
    run = tmp_path / "run"
    assert forked.run(killed, str(phantom_store), str(run), step) == -signal.SIGKILL
    assert forked.run(impatient, str(phantom_store), str(run)) == 0
    assert_same(run, undisturbed)


def test_a_log_that_holds_something_of_another_program_is_not_written_over(phantom_store: Path, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("mine\n")
    assert forked.run(trained, str(phantom_store), str(tmp_path)) == 2
    assert tree(tmp_path) == {"log.jsonl": b"mine\n"}


def test_whoever_takes_a_run_over_removes_what_its_last_holder_was_about_to_publish(
    phantom_store: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert forked.run(interrupted, str(phantom_store), str(run)) == 75
    for name in ("model.safetensors", "state/step-00000009.json"):
        path = run / name
        path.with_name(f".{path.name}.{'0' * 32}.tmp").write_bytes(b"of a process that sleeps before its rename")
    assert forked.run(trained, str(phantom_store), str(run)) == 0
    assert not list(run.rglob("*.tmp"))
    assert_same(run, undisturbed)


# -- a finished run proves itself --------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 2
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def remove(path: Path) -> None:
    path.unlink()


def again(store: Path, run: Path) -> None:
    train(str(store), str(run), recipe(EVERY_STEP), "cpu")


@pytest.mark.parametrize("damage", [flip, cut, remove])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "recipe.json", "curve.png", "README.md"])
def test_a_finished_run_names_what_changed_and_writes_it_again_to_the_same_bytes(
    phantom_store: Path, undisturbed: Path, tmp_path: Path, said: list[str], name: str, damage: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = tree(run)
    damage(run / name)
    again(phantom_store, run)
    assert any(f"{run / name}: " in line for line in said) or (name, damage) == ("recipe.json", remove)
    edited = name == "README.md" and damage is not remove
    assert (tree(run) == before) is not edited, "a card may have been edited by hand: it is named and left"
    said.clear()
    again(phantom_store, run)
    assert any("there is nothing left to do" in line for line in said)


@pytest.mark.parametrize("damage", [flip, cut, remove])
def test_a_finished_run_says_which_lines_its_log_lost_and_proves_the_mended_one(
    phantom_store: Path, undisturbed: Path, tmp_path: Path, said: list[str], damage: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    damage(run / "log.jsonl")
    again(phantom_store, run)
    assert any("log.jsonl: was cut, removed or changed" in line for line in said)
    lost = sum(line["steps"] for line in numbers(run, "lost"))
    assert lost + len(numbers(run)) == 15
    assert lost > 0 or damage is cut  # the last 100 bytes are of a validation, which the checkpoint has too
    assert numbers(run, "validation") == numbers(undisturbed, "validation")
    assert (run / "curve.png").read_bytes() == (undisturbed / "curve.png").read_bytes()
    said.clear()
    again(phantom_store, run)
    assert any("there is nothing left to do" in line for line in said)


def test_a_finished_run_of_an_earlier_version_gets_its_hashes(
    phantom_store: Path, undisturbed: Path, tmp_path: Path, said: list[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    config = json.loads((run / "config.json").read_text())
    del config["files"], config["digest"]
    (run / "config.json").write_text(json.dumps(config))
    again(phantom_store, run)
    assert any("names no hashes: it is of an earlier version" in line for line in said)
    assert tree(run) == tree(undisturbed)


def test_damage_of_a_finished_run_without_a_whole_encoder_anywhere_is_named(
    phantom_store: Path, undisturbed: Path, tmp_path: Path, said: list[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    best = max((run / "state").glob("best-*"))
    flip(best)
    again(phantom_store, run)
    assert any(f"{best}: its bytes changed" in line for line in said)
    flip(run / "model.safetensors")
    with pytest.raises(TrainingError, match=best.name):
        again(phantom_store, run)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "recipe.json", "log.jsonl"])
def test_an_evaluation_refuses_a_run_with_a_flipped_bit_by_file_name(
    phantom_store: Path, undisturbed: Path, tmp_path: Path, name: str
) -> None:
    from usjepa.evaluate.cli import main

    shutil.copytree(undisturbed, tmp_path / "run")
    flip(tmp_path / "run" / name)
    task = ["--task", str(phantom_store), "-o", str(tmp_path / "out")]
    for call in ([str(tmp_path / "run"), *task], [str(undisturbed), *task, "--encoder", str(tmp_path / "run")]):
        if name == "recipe.json" and "--encoder" in call:
            continue  # a rival's recipe is not read
        found = CliRunner().invoke(main, call)
        assert found.exit_code == DamageError.exit_code, found.output
        assert f"{tmp_path / 'run' / name}" in found.stderr
    assert not (tmp_path / "out").exists()
