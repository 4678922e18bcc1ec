"""Training: exact when resumed, the same with cached and live targets, stopped by what is not finite."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.support.processes import forked
from tests.support.runs import EVERY_STEP, PER_EPOCH, STEPS, TINY_RUN, TINY_STORE, losses, numbers, recipe
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError, NotSealedError, TrainingError, UsageError
from usjepa.cache.reading.batch import Batch
from usjepa.cache.reading.store import open_store
from usjepa.train.record.export import load_encoder
from usjepa.train.run import loop
from usjepa.train.run.loop import train
from usjepa.train.run.plan import busy_note
from usjepa.train.run.step import train_step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


# -- killed and resumed ------------------------------------------------------------------------------------------------


def in_child(store: Path, run: Path, overrides: tuple[str, ...] = ()) -> None:
    torch.set_num_threads(1)
    train(str(store), str(run), recipe(*overrides), "cpu")


def killed_at_durable_step(store: Path, run: Path, at: int, overrides: tuple[str, ...] = ()) -> None:
    forked.die_at_durable_step(at)
    in_child(store, run, overrides)


def killed_in(store: Path, run: Path, name: str, call: int, overrides: tuple[str, ...] = ()) -> None:
    """Die at the call-th call of `loop.<name>`, before it does anything."""
    real, count = getattr(loop, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(loop, name, counted)
    in_child(store, run, overrides)


@pytest.fixture(scope="module")
def undisturbed(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert forked.run(in_child, phantom_store, run) == 0
    return run


def assert_same_run(run: Path, other: Path) -> None:
    for kind in ("step", "validation"):
        assert numbers(run, kind) == numbers(other, kind)
    assert (run / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param("train_step", 1, id="before the first step", marks=pytest.mark.slow),
        pytest.param("train_step", 8, id="mid-epoch"),
        pytest.param("validate", 2, id="in validation"),
        pytest.param("_end_epoch", 1, id="at an epoch's end", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_and_resumed_gives_bitwise_the_same_losses_and_weights(
    phantom_store: Path, undisturbed: Path, tmp_path: Path, name: str, call: int
) -> None:
    assert forked.run(killed_in, phantom_store, tmp_path / "run", name, call) == -signal.SIGKILL
    assert forked.run(in_child, phantom_store, tmp_path / "run", ("train.read_threads=1",)) == 0
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_run_killed_three_times_while_saving_gives_bitwise_the_same(
    phantom_store: Path, undisturbed: Path, tmp_path: Path
) -> None:
    for at in (4, 40, 33):
        assert forked.run(killed_at_durable_step, phantom_store, tmp_path / "run", at, (EVERY_STEP,)) == -signal.SIGKILL
    assert forked.run(in_child, phantom_store, tmp_path / "run", (EVERY_STEP,)) == 0
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 140, 3))
def test_a_run_killed_at_any_durable_step_gives_bitwise_the_same(
    phantom_store: Path, undisturbed: Path, tmp_path: Path, at: int
) -> None:
    code = forked.run(killed_at_durable_step, phantom_store, tmp_path / "run", at, (EVERY_STEP,))
    assert code in (-signal.SIGKILL, 0)
    assert forked.run(in_child, phantom_store, tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", undisturbed)


def test_a_damaged_newest_checkpoint_costs_some_steps_but_no_number(
    phantom_store: Path, undisturbed: Path, tmp_path: Path
) -> None:
    assert forked.run(killed_in, phantom_store, tmp_path / "run", "train_step", 9, (EVERY_STEP,)) == -signal.SIGKILL
    os.truncate(max((tmp_path / "run" / "state").glob("step-*.safetensors")), 1000)
    assert forked.run(in_child, phantom_store, tmp_path / "run", stderr=tmp_path / "told") == 0
    told = (tmp_path / "told").read_text()
    assert "warning: checkpoint" in told
    assert "resuming at step 7 of 15" in told
    assert_same_run(tmp_path / "run", undisturbed)


def interrupted(store: Path, run: Path) -> None:
    """End as the command does: by the error's exit code."""
    from usjepa.cache.command_line import ends_well

    real, steps = train_step, []

    def stopped_in_the_third(*args: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    vars(loop)["train_step"] = stopped_in_the_third
    ends_well(in_child)(store, run)


def test_sigterm_saves_and_exits_75_and_the_same_command_goes_on(
    phantom_store: Path, undisturbed: Path, tmp_path: Path
) -> None:
    assert forked.run(interrupted, phantom_store, tmp_path / "run", stderr=tmp_path / "first") == 75
    assert "run the same command again to go on" in (tmp_path / "first").read_text()
    done = len(numbers(tmp_path / "run"))
    assert 0 < done < STEPS
    assert forked.run(in_child, phantom_store, tmp_path / "run", stderr=tmp_path / "second") == 0
    assert f"resuming at step {done} of 15" in (tmp_path / "second").read_text()
    assert_same_run(tmp_path / "run", undisturbed)


def test_a_finished_run_redoes_nothing(phantom_store: Path, undisturbed: Path, tmp_path: Path, said: list[str]) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    train(str(phantom_store), str(run), recipe(), "cpu")
    assert any("is finished (15 steps)" in line for line in said)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_epochs_differ_in_their_order_and_the_log_has_every_step_once(undisturbed: Path) -> None:
    lines = numbers(undisturbed)
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert [line["epoch"] for line in lines] == [step // PER_EPOCH for step in range(STEPS)]
    assert len({line["batch"] for line in lines}) == STEPS
    assert [line["epoch"] for line in numbers(undisturbed, "validation")] == [0, 1, 2]


# -- what is learnt ----------------------------------------------------------------------------------------------------


def test_cached_targets_and_a_teacher_in_the_loop_give_the_same_losses(phantom_store: Path, tmp_path: Path) -> None:
    more = ("train.epochs=2", "train.warmup_epochs=1")
    train(str(phantom_store), str(tmp_path / "cached"), recipe(*more), "cpu")
    train(str(phantom_store), str(tmp_path / "online"), recipe(*more, "train.targets=online"), "cpu")
    cached, online = (numbers(tmp_path / name) for name in ("cached", "online"))
    assert len(cached) == 10
    assert [line["batch"] for line in cached] == [line["batch"] for line in online]
    assert np.allclose([line["loss"] for line in cached], [line["loss"] for line in online], rtol=0, atol=1e-5)


def test_the_loss_falls(phantom_store: Path, tmp_path: Path) -> None:
    train(str(phantom_store), str(tmp_path), recipe("train.epochs=12"), "cpu")
    told = losses(tmp_path)
    assert np.mean(told[-5:]) < 0.9 * np.mean(told[:5])
    validation = [line["loss"] for line in numbers(tmp_path, "validation")]
    assert min(validation) < validation[0]


def test_the_exported_encoder_is_that_of_lowest_validation_loss_and_plain_timm_loads_it(
    phantom_store: Path, tmp_path: Path
) -> None:
    train(str(phantom_store), str(tmp_path), recipe("train.lr=1e-3", "train.lr_final=2"), "cpu")
    checks = numbers(tmp_path, "validation")
    lowest = min(checks, key=lambda line: line["loss"])
    assert lowest["epoch"] < 2, "the rate was meant to rise until the last epoch is not the best"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["usjepa"]["best"] == {key: lowest[key] for key in ("loss", "step", "epoch")}
    kept = load_file(tmp_path / "state" / f"best-{lowest['step']:08d}.safetensors")
    model = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
    model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


def test_the_exported_encoder_gives_the_features_of_the_student(undisturbed: Path) -> None:
    from usjepa.train.model.student import Student

    model: Any
    model, config = load_encoder(undisturbed)
    student = Student(recipe().train.student, 32, 0).eval()
    student.vit.load_state_dict(load_file(undisturbed / "model.safetensors"))
    pixels = torch.rand(2, 1, 32, 32)
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (config.mean, config.std))
    with torch.no_grad():
        assert torch.equal(student.encode(pixels), model.forward_features((pixels.expand(-1, 3, -1, -1) - mean) / std))


def test_training_draws_nothing_from_global_generators(phantom_store: Path, tmp_path: Path) -> None:
    before, numpy_before = torch.get_rng_state(), pickle.dumps(np.random.get_state())
    train(str(phantom_store), str(tmp_path), recipe(), "cpu", stop_after_steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert pickle.dumps(np.random.get_state()) == numpy_before
    assert not torch.are_deterministic_algorithms_enabled()


def test_without_held_out_groups_the_last_encoder_is_exported(phantom_store: Path, tmp_path: Path) -> None:
    train(str(phantom_store), str(tmp_path), recipe("train.validation_fraction=0"), "cpu")
    assert not numbers(tmp_path, "validation")
    assert json.loads((tmp_path / "config.json").read_text())["usjepa"]["best"] is None
    newest = load_file(max((tmp_path / "state").glob("step-*.safetensors")))
    exported = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, newest[f"model.student.vit.{name}"]) for name, tensor in exported.items())


# -- regions -----------------------------------------------------------------------------------------------------------


def with_regions(monkeypatch: pytest.MonkeyPatch, empty: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> None:
    """Let the regions of the rows for which `empty(rows)` is true be empty."""

    def regions(batch: Batch) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = batch.arrays["regions"].copy()
        found[empty(batch.rows)] = 0
        return found

    monkeypatch.setattr(Batch, "regions", property(regions))


REGIONS = "train.masks.regions=true"


def test_images_without_room_for_masks_are_left_out_and_counted(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_regions(monkeypatch, lambda rows: rows % 3 == 0)
    train(str(phantom_store), str(tmp_path), recipe(REGIONS), "cpu", stop_after_steps=PER_EPOCH)
    lines = numbers(tmp_path)
    assert all(line["images"] + line["unusable"] == 8 for line in lines)
    assert sum(line["unusable"] for line in lines) > 8
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_a_batch_without_any_usable_image_stops_and_names_its_rows(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_regions(monkeypatch, lambda rows: rows >= 0)
    with pytest.raises(TrainingError, match="none of the 8 images of the batch has room for its masks"):
        train(str(phantom_store), str(tmp_path), recipe(REGIONS), "cpu")


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_step_and_names_the_row(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Batch.targets_of
    bad: list[int] = []

    def targets_of(batch: Batch, *given: Any) -> torch.Tensor:
        latents = real(batch, *given)
        if len(bad) == 8:  # five steps and two batches of validation lie before step 5
            latents[3] = float("nan")
        bad.append(int(batch.rows[min(3, len(batch.rows) - 1)]))
        return latents

    monkeypatch.setattr(Batch, "targets_of", targets_of)
    with pytest.raises(TrainingError, match=r"step 6 \(epoch 1\): loss nan") as caught:
        train(str(phantom_store), str(tmp_path), recipe(EVERY_STEP), "cpu")
    assert f"whose loss is not finite: {bad[8]}. The weights" in str(caught.value)
    assert len(losses(tmp_path)) == 6
    monkeypatch.undo()
    newest = load_file(max((tmp_path / "state").glob("step-*.safetensors")))
    assert all(torch.isfinite(tensor).all() for tensor in newest.values())
    train(str(phantom_store), str(tmp_path), recipe(), "cpu")
    assert len(losses(tmp_path)) == STEPS


def test_a_run_goes_on_only_with_the_numbers_it_began_with(phantom_store: Path, tmp_path: Path) -> None:
    train(str(phantom_store), str(tmp_path), recipe(), "cpu", stop_after_steps=3)
    with pytest.raises(IdentityError) as caught:
        train(str(phantom_store), str(tmp_path), recipe("train.lr=1e-3", "train.masks.target_blocks=3"), "cpu")
    assert "train.lr: 0.002 | 0.001" in str(caught.value)
    assert "train.masks.target_blocks: 4 | 3" in str(caught.value)
    train(str(phantom_store), str(tmp_path), recipe("train.read_threads=1", EVERY_STEP), "cpu", stop_after_steps=1)
    assert len(losses(tmp_path)) == 4


def test_a_run_refuses_another_store(phantom_store: Path, tmp_path: Path) -> None:
    from usjepa.cache.building.build import build

    train(str(phantom_store), str(tmp_path / "run"), recipe(), "cpu", stop_after_steps=1)
    build(str(tmp_path / "other.zarr"), recipe("cache.phantom.seed=1"), BuildRequest(teacher="random"))
    with pytest.raises(IdentityError, match=r"other\.zarr, now at generation 1, has no such generation: it is another"):
        train(str(tmp_path / "other.zarr"), str(tmp_path / "run"), recipe(), "cpu")


def test_an_unsealed_store_is_refused(tmp_path: Path) -> None:
    from tests.support.stores import write_store

    write_store(tmp_path / "store.zarr", seal=False)
    with pytest.raises(NotSealedError):
        train(str(tmp_path / "store.zarr"), str(tmp_path / "run"), recipe(), "cpu")
    assert not (tmp_path / "run").exists()


def test_a_store_without_latents_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from usjepa.cache.building.build import build

    build(str(tmp_path / "store.zarr"), recipe())
    with pytest.raises(UsageError, match="build with --teacher"):
        train(str(tmp_path / "store.zarr"), str(tmp_path / "run"), recipe(), "cpu")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.student.patch_size=16", "is 2x2, that of the targets 4x4"),
        ("train.teacher=urfm", r"no latents of 'urfm'\. It holds latents of: demo"),
    ],
)
def test_a_recipe_that_does_not_fit_the_store_is_refused(
    phantom_store: Path, tmp_path: Path, override: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        train(str(phantom_store), str(tmp_path / "run"), recipe(override), "cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:x"])
def test_a_device_that_cannot_train_is_refused_with_those_that_can(
    phantom_store: Path, tmp_path: Path, device: str
) -> None:
    with pytest.raises(UsageError, match=rf"--device {device}: .*\bcpu\b.*\bcuda\b"):
        train(str(phantom_store), str(tmp_path / "run"), recipe(), device)
    assert not (tmp_path / "run").exists()


def test_an_online_teacher_that_is_not_the_stored_one_is_refused_by_field(phantom_store: Path, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"weights: "):
        train(str(phantom_store), str(tmp_path), recipe("train.targets=online", "cache.teacher.seed=1"), "cpu")


def test_a_run_that_lost_its_checkpoints_is_not_started_over(phantom_store: Path, tmp_path: Path) -> None:
    train(str(phantom_store), str(tmp_path), recipe(), "cpu", stop_after_steps=3)
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    with pytest.raises(TrainingError, match="the run has begun"):
        train(str(phantom_store), str(tmp_path), recipe(), "cpu")


def test_a_damaged_row_ends_training_with_the_stores_own_error(phantom_store: Path, tmp_path: Path) -> None:
    from usjepa.cache.errors import DamageError

    shutil.copytree(phantom_store, tmp_path / "store.zarr")
    shard = tmp_path / "store.zarr" / "latents" / "demo" / "c.1.0.0"
    data = bytearray(shard.read_bytes())
    for at in range(1000, len(data) // 2, 2000):
        data[at] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamageError):
        train(str(tmp_path / "store.zarr"), str(tmp_path / "run"), recipe(), "cpu")


@pytest.mark.slow
def test_a_store_that_grew_does_not_disturb_a_run_that_began_before(
    phantom_store: Path, tmp_path: Path, undisturbed: Path
) -> None:
    from usjepa.cache.building.build import build

    shutil.copytree(phantom_store, tmp_path / "store.zarr")
    train(str(tmp_path / "store.zarr"), str(tmp_path / "run"), recipe(), "cpu", stop_after_steps=7)
    frames = tmp_path / "more"
    frames.mkdir()
    from PIL import Image

    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64), dtype=np.uint8)).save(frames / f"{i}.png")
    build(str(tmp_path / "store.zarr"), recipe(), BuildRequest(source=str(frames), teacher="random"))
    assert open_store(tmp_path / "store.zarr").generation > 1
    train(str(tmp_path / "store.zarr"), str(tmp_path / "run"), recipe(), "cpu")
    assert [line["batch"] for line in numbers(tmp_path / "run")] == [line["batch"] for line in numbers(undisturbed)]


def test_the_command_ends_with_the_place_of_the_encoder_and_what_to_run_next(
    phantom_store: Path, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from usjepa.train.cli import main

    overrides = [part for override in (*TINY_STORE, *TINY_RUN) for part in ("--set", override)]
    call = [str(phantom_store), str(tmp_path / "run"), "--pipeline", "demo", "--device", "cpu", *overrides]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    assert f"encoder: {tmp_path / 'run' / 'model.safetensors'}" in done.output
    assert "next: usjepa-evaluate" in done.output
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(main, call[:2]).exit_code == 2
    assert CliRunner().invoke(main, [*call, "--set", "train.lr=1"]).exit_code == 2


def test_more_threads_than_free_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    assert busy_note(cpu) == ""
    monkeypatch.setattr(os, "getloadavg", lambda: (6.0, 0.0, 0.0))
    assert "torch computes in 2 threads, and of 2 cores about 1 is free (load 6.0)" in busy_note(cpu)
    assert busy_note(torch.device("cuda")) == ""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert busy_note(cpu) == ""
