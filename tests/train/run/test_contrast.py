"""Claims about training on pairs: exact resumes, the same on any ranks and parts, groups apart, a whole export."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support.labelled import File, write_labelled
from tests.support.processes import forked
from tests.support.runs import EVERY_STEP, STEPS, losses, numbers, recipe
from tests.train.run.test_ranks import command, run_ranks, same_draws
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError, RecipeError, TrainingError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.train.data.split import split_rows
from usjepa.train.run import loop, step
from usjepa.train.run.loop import train
from usjepa.train.run.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from usjepa.train.data.pairs import PairBatch
    from usjepa.train.run.computing import Learner
    from usjepa.train.run.step import StepResult

CONTRAST = ("train.objective=contrast", "train.contrast.hidden=32", "train.contrast.dim=16")


def in_child(store: Path, run: Path, overrides: tuple[str, ...]) -> None:
    torch.set_num_threads(1)  # sums are split over threads, and a child may have others
    train(str(store), str(run), recipe(*overrides), "cpu")


def killed(store: Path, run: Path, at: int) -> None:
    """Train, and die by SIGKILL at a durable step."""
    forked.die_at_durable_step(at)
    in_child(store, run, (*CONTRAST, EVERY_STEP))


@pytest.fixture(scope="module")
def alone(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("contrast") / "run"
    assert forked.run(in_child, phantom_store, run, CONTRAST) == 0
    return run


@pytest.fixture(scope="module")
def clip_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 8 clips of 12 frames: longer than a batch of 8 or of 4."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    (folder / "source").mkdir()
    for clip in range(8):
        still = rng.integers(30, 200, (64, 64))
        frames = [Image.fromarray((still + rng.integers(-20, 20, still.shape)).astype(np.uint8)) for _ in range(12)]
        frames[0].save(folder / "source" / f"{clip}.tif", save_all=True, append_images=frames[1:])
    kept = (f"cache.source={folder / 'source'}", "cache.preprocess.whole=keep", "cache.teacher=null")
    build(str(folder / "store.zarr"), recipe(*kept, "cache.views.count=1"), BuildRequest())
    return folder / "store.zarr"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def test_its_loss_falls_and_cosines_and_rank_are_measured(alone: Path) -> None:
    found = losses(alone)
    assert np.mean(found[-3:]) < np.mean(found[:3])
    last = numbers(alone, "validation")[-1]
    assert 0 < min(last["partner_cosine"], last["other_cosine"]) < 1
    assert last["rankme"] >= 1
    assert "target_std" not in last


def test_the_projector_is_thrown_away_and_plain_timm_loads_what_is_left(alone: Path) -> None:
    import timm

    assert not [name for name in weights(alone) if "projector" in name]
    model = timm.create_model(f"local-dir:{alone}", pretrained=True)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    told = json.loads((alone / "config.json").read_text())["usjepa"]
    assert told["teacher"] == "contrast"
    assert told["identity"]["teacher"]["contrast"]["temperature"] == 0.2
    card = (alone / "README.md").read_text()
    assert "by telling images apart" in card
    assert "images of one clip told from all others" in card


@pytest.mark.parametrize("at", [40, pytest.param(95, marks=pytest.mark.slow)])
def test_a_run_killed_and_resumed_gives_bitwise_the_same_losses_and_weights(
    phantom_store: Path, alone: Path, tmp_path: Path, at: int
) -> None:
    assert forked.run(killed, phantom_store, tmp_path / "run", at) == -signal.SIGKILL
    assert 0 < len(numbers(tmp_path / "run")) < STEPS
    assert forked.run(in_child, phantom_store, tmp_path / "run", CONTRAST) == 0
    assert losses(tmp_path / "run") == losses(alone)
    mine, theirs = weights(tmp_path / "run"), weights(alone)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert [line["loss"] for line in numbers(tmp_path / "run", "validation")] == [
        line["loss"] for line in numbers(alone, "validation")
    ]


@pytest.mark.parametrize("accumulate", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 9))])
def test_parts_of_a_batch_are_compared_with_all_of_it(
    phantom_store: Path, alone: Path, tmp_path: Path, accumulate: int
) -> None:
    train(str(phantom_store), str(tmp_path / "run"), recipe(*CONTRAST, f"train.accumulate={accumulate}"), "cpu")
    assert same_draws(tmp_path / "run", alone)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), atol=1e-5)


@pytest.mark.slow
def test_two_ranks_draw_the_same_pairs_and_lose_the_same(phantom_store: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(str(phantom_store), str(run), recipe(*CONTRAST), "cpu", stop_after_steps=4)
    run_ranks(2, command(phantom_store, run, *CONTRAST), tmp_path)
    assert len(losses(run)) == STEPS
    assert same_draws(run, alone)
    np.testing.assert_allclose(losses(run), losses(alone), atol=1e-5)
    validation = [[line["loss"] for line in numbers(it, "validation")] for it in (run, alone)]
    np.testing.assert_allclose(validation[0], validation[1], atol=1e-5)


def test_held_out_clips_longer_than_a_batch_are_told_apart(clip_store: Path, tmp_path: Path) -> None:
    settings = (*CONTRAST, "train.validation_fraction=0.4", "train.batch_size=4")
    train(str(clip_store), str(tmp_path / "run"), recipe(*settings), "cpu")
    held = len(make_plan(str(clip_store), recipe(*settings), "cpu", None).validation_rows)
    lines = numbers(tmp_path / "run", "validation")
    assert held >= 24
    assert [(line["images"], line["unusable"]) for line in lines] == [(held, 0)] * 3
    assert all(line["loss"] > 0.1 for line in lines)
    assert lines[-1]["partner_cosine"] > lines[-1]["other_cosine"] > 0


@pytest.mark.parametrize("by", ["clip", "group"])
def test_a_held_out_part_of_one_clip_or_group_gives_no_loss_and_the_last_encoder(
    clip_store: Path, phantom_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    store, run = {"clip": clip_store, "group": phantom_store}[by], tmp_path / "run"
    last = ("train.validation_fraction=1e-9", "train.keep_encoders=[3]", f"train.contrast.positives={by}")
    with caplog.at_level("INFO"):
        train(str(store), str(run), recipe(*CONTRAST, *last), "cpu")
    assert caplog.text.count(f"All held-out frames are of one {by}") == 1
    assert "the last encoder is exported" in caplog.text
    assert numbers(run, "validation") == []
    assert json.loads((run / "config.json").read_text())["usjepa"]["best"] is None
    kept = load_file(run / "encoders" / "epoch-0003" / "model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights(run).items())


@pytest.mark.parametrize("by", ["clip", "group"])
def test_training_rows_of_one_clip_or_group_are_refused(tmp_path: Path, by: str) -> None:
    files = [File("x", "p0") for _ in range(40 if by == "group" else 1)]
    write_labelled(tmp_path / "store.zarr", files, views=2)
    told = {
        "clip": r"of one clip, 'toy/0000\.png'.*Add clips, hold",
        "group": r"of one group, 'p0'.*Add groups, set .*clip",
    }
    with pytest.raises(UsageError, match=told[by]):
        train(
            str(tmp_path / "store.zarr"), str(tmp_path / "run"), recipe(*CONTRAST, f"train.contrast.spared={by}"), "cpu"
        )
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_training_batch_of_one_group_is_skipped_rather_than_counted_as_0(tmp_path: Path) -> None:
    write_labelled(tmp_path / "store.zarr", [File("x", f"p{max(0, i - 40)}") for i in range(46)])
    settings = ("train.contrast.spared=group", "train.validation_fraction=0", "train.batch_size=2", "train.epochs=2")
    train(str(tmp_path / "store.zarr"), str(tmp_path / "run"), recipe(*CONTRAST, *settings), "cpu")
    alone = [line for line in numbers(tmp_path / "run") if line["images"] == 0]
    assert len(alone) > 20
    assert all((line["loss"], line["grad_norm"], line["unusable"]) == (None, None, 2) for line in alone)
    assert all(line["loss"] > 0 for line in numbers(tmp_path / "run") if line["images"])


def test_losses_of_0_make_no_later_one_an_explosion(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step.train_step

    def perfect(learner: Learner, parts: Sequence[PairBatch], images: int, limit: float) -> StepResult:
        found = real(learner, parts, images, limit)
        return replace(found, loss=0.0) if parts[0].step < 22 else found

    monkeypatch.setattr(loop, "train_step", perfect)
    train(str(phantom_store), str(tmp_path / "run"), recipe(*CONTRAST, "train.epochs=5"), "cpu")
    assert losses(tmp_path / "run")[:22] == [0.0] * 22
    assert all(loss > 0 for loss in losses(tmp_path / "run")[22:])


def test_a_gradient_that_is_not_finite_is_not_called_an_explosion_of_the_loss(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "get_total_norm", lambda gradients: torch.tensor(torch.inf))
    with pytest.raises(TrainingError, match="gradient norm inf") as caught:
        train(str(phantom_store), str(tmp_path / "run"), recipe(*CONTRAST), "cpu")
    assert "exploded" not in str(caught.value)


def test_a_run_does_not_go_on_with_other_pairs(phantom_store: Path, tmp_path: Path) -> None:
    train(str(phantom_store), str(tmp_path / "run"), recipe(*CONTRAST), "cpu", stop_after_steps=2)
    for other in ("train.contrast.temperature=0.1", "train.contrast.distance=2", "train.objective=pixels"):
        with pytest.raises(IdentityError, match=other.split("=")[0].split(".")[-1]):
            train(str(phantom_store), str(tmp_path / "run"), recipe(*CONTRAST, other), "cpu")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("train.targets=online",), r"train\.objective = 'contrast': has no teacher"),
        (("train.batch_size=1",), r"train\.batch_size = 1: must be 2 or more"),
        (("train.target_norm=whitened",), r"train\.target_norm = 'whitened': has nothing to normalise"),
        (("train.contrast.positives=group", "train.contrast.distance=3"), r"distance = 3: counts frames of one clip"),
    ],
)
def test_what_pairs_have_no_use_for_is_refused(overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe(*CONTRAST, *overrides)


def test_settings_of_pairs_change_no_identity_of_other_runs(phantom_store: Path) -> None:
    plain = make_plan(str(phantom_store), recipe(), "cpu", None).identity
    assert "contrast" not in plain["train"]


def test_its_encoder_is_a_teacher_like_any_other(phantom_store: Path, alone: Path, tmp_path: Path) -> None:
    build(str(tmp_path / "store.zarr"), recipe(), BuildRequest(teacher=str(alone)))
    store = open_store(tmp_path / "store.zarr")
    assert store.layers["latents/demo"].identity["teacher"]["architecture"] == "test_vit"
    train(str(tmp_path / "store.zarr"), str(tmp_path / "student"), recipe(), "cpu", stop_after_steps=2)
    assert np.isfinite(losses(tmp_path / "student")).all()
    assert len(split_rows(store.table, recipe().train).train)
