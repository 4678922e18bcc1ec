"""Standardised targets: statistics of the training rows, kept by checkpoints; and choices that change no number."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.support.runs import losses, recipe
from usjepa.cache.reading.store import open_store
from usjepa.train.objective.target_norm import TargetNorm, measured
from usjepa.train.objective.targets import stored_latents
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path


def test_each_channel_gets_mean_0_and_deviation_1_over_the_training_rows(phantom_store: Path) -> None:
    store = open_store(phantom_store)
    positions = np.arange(0, 120, 2)
    norm = measured("standardised", store, stored_latents(store, "demo"), positions, torch.device("cpu"))
    latents = torch.from_numpy(store.read(store.rows[positions]).arrays["latents/demo"])
    got = norm(latents).double().flatten(0, 1)
    torch.testing.assert_close(got.mean(0), torch.zeros(got.shape[1]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(got.std(0), torch.ones(got.shape[1]).double(), atol=1e-3, rtol=0)


def test_whitened_targets_vary_alike_in_every_direction_over_the_training_rows(phantom_store: Path) -> None:
    store = open_store(phantom_store)
    positions = np.arange(0, 120, 2)
    norm = measured("whitened", store, stored_latents(store, "demo"), positions, torch.device("cpu"))
    latents = torch.from_numpy(store.read(store.rows[positions]).arrays["latents/demo"])
    got = norm(latents).double().flatten(0, 1)
    before = latents.double().flatten(0, 1)
    spread, after = torch.linalg.eigvalsh(torch.cov(before.T)), torch.cov(got.T)
    # The floor holds back directions of rounding noise; it takes less than 2 % of a direction's variance that is not.
    strong = int((spread > 0.05 * spread.mean()).sum())
    assert strong > 10
    assert ((torch.linalg.eigvalsh(after)[-strong:] - 1).abs() < 0.03).all()
    # Unlike standardised channels, which stay correlated.
    standardised = measured("standardised", store, stored_latents(store, "demo"), positions, torch.device("cpu"))(
        latents
    )
    assert _largest_share(got) < 0.5 * _largest_share(standardised.double().flatten(0, 1))


def _largest_share(values: torch.Tensor) -> float:
    """Of the variance, on its first principal axis."""
    variances = torch.linalg.eigvalsh(torch.cov(values.T))
    return float(variances[-1] / variances.sum())


def test_a_massive_channel_weighs_no_more_than_the_others() -> None:
    latents = torch.randn(200, 4, 8, generator=torch.Generator().manual_seed(0))
    latents[..., 3] *= 50
    flat = latents.flatten(0, 1)
    norm = TargetNorm("standardised", flat.mean(0), flat.std(0))
    shares = norm(latents).square().flatten(0, 1).mean(0)
    assert float(shares.max() / shares.min()) < 1.01


@pytest.mark.parametrize("mode", [pytest.param("standardised", marks=pytest.mark.slow), "whitened"])
def test_a_resumed_run_does_not_measure_again(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    wanted = recipe(f"train.target_norm={mode}", "train.loss=cosine")
    train(str(phantom_store), str(tmp_path / "whole"), wanted, "cpu")
    train(str(phantom_store), str(tmp_path / "cut"), wanted, "cpu", stop_after_steps=7)
    monkeypatch.setattr("usjepa.train.run.state.measured", None)
    train(str(phantom_store), str(tmp_path / "cut"), wanted, "cpu")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_recomputed_activations_change_no_loss(phantom_store: Path, tmp_path: Path) -> None:
    train(str(phantom_store), str(tmp_path / "kept"), recipe(), "cpu", stop_after_steps=4)
    train(str(phantom_store), str(tmp_path / "again"), recipe("train.recompute=true"), "cpu", stop_after_steps=4)
    assert losses(tmp_path / "again") == losses(tmp_path / "kept")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_loses_the_same_within_1e_4_and_saves_under_the_same_names(
    phantom_store: Path, tmp_path: Path
) -> None:
    train(str(phantom_store), str(tmp_path / "plain"), recipe(), "cpu", stop_after_steps=6)
    train(str(phantom_store), str(tmp_path / "run"), recipe("train.compile=true"), "cpu", stop_after_steps=6)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "plain"), atol=1e-4)
    train(str(phantom_store), str(tmp_path / "run"), recipe(), "cpu", stop_after_steps=2)  # goes on without
    assert len(losses(tmp_path / "run")) == 8
