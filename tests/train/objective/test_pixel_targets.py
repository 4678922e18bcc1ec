"""The pixel teacher: what it predicts, and that its encoder is a teacher like any other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.runs import losses, recipe
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError, RecipeError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.train.objective.pixel_targets import PixelTargets
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = ("train.objective=pixels", "train.loss=l2")


@given(
    st.integers(1, 3), st.integers(1, 4), st.sampled_from([(2, 1), (4, 2), (8, 1), (8, 4), (6, 3), (4, 4)]),
    st.sampled_from([1, 3]), st.integers(0, 99),
)  # fmt: skip
def test_targets_are_each_patchs_cells_by_their_own_mean_and_deviation(
    images: int, side: int, sizes: tuple[int, int], channels: int, seed: int
) -> None:
    (patch, cell), n = sizes, sizes[0] // sizes[1]
    size = side * patch
    pixels = np.random.default_rng(seed).integers(0, 256, (images, channels, size, size), dtype=np.uint8)
    made = PixelTargets(size, channels, (side, side), cell=cell)(torch.from_numpy(pixels)).numpy()
    assert made.shape == (images, side * side, channels * n * n)
    for image in range(images):
        for row in range(side):
            for column in range(side):
                one = pixels[image, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] / 255.0
                cells = one.reshape(channels, n, cell, n, cell).mean(axis=(2, 4))
                expected = (cells - cells.mean()) / np.sqrt(cells.var() + 1e-6)
                np.testing.assert_allclose(made[image, row * side + column], expected.ravel(), atol=2e-3)


def test_a_patch_of_one_grey_level_has_a_target_of_zeros() -> None:
    pixels = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
    assert PixelTargets(8, 1, (2, 2))(pixels).abs().max() < 1e-3


def test_without_normalisation_targets_are_the_patches_grey_levels_from_0_to_1() -> None:
    pixels = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8) * 4
    targets = PixelTargets(8, 1, (2, 2), norm="none")(pixels)
    expected = pixels[0, 0, :4, 4:].reshape(-1).float() / 255
    torch.testing.assert_close(targets[0, 1], expected)


def test_pixels_normalised_in_another_way_are_another_runs_targets(pixel_store: Path, tmp_path: Path) -> None:
    train(str(pixel_store), str(tmp_path / "run"), recipe(*PIXELS), "cpu", stop_after_steps=2)
    with pytest.raises(IdentityError, match="normalisation"):
        train(str(pixel_store), str(tmp_path / "run"), recipe(*PIXELS, "train.pixel_norm=none"), "cpu")
    with pytest.raises(IdentityError, match="cell"):
        train(str(pixel_store), str(tmp_path / "run"), recipe(*PIXELS, "train.pixel_cell=2"), "cpu")


def test_a_grid_that_does_not_fill_the_image_is_refused() -> None:
    with pytest.raises(UsageError, match="do not divide into 3x3 square patches"):
        PixelTargets(16, 1, (3, 3))


def test_cells_that_do_not_fill_a_patch_are_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.pixel_cell=3 does not divide the patch side of 8 pixels"):
        PixelTargets(16, 1, (2, 2), cell=3)


def test_pixels_and_a_teacher_in_the_loop_contradict_each_other() -> None:
    with pytest.raises(RecipeError, match=r"train\.objective = 'pixels': has no teacher"):
        recipe("train.objective=pixels", "train.targets=online")


@pytest.fixture(scope="module")
def pixel_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without any latents."""
    store = tmp_path_factory.mktemp("pixels") / "store.zarr"
    build(str(store), recipe())
    assert open_store(store).latents == []
    return store


@pytest.fixture(scope="module")
def pixel_teacher(pixel_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teacher") / "run"
    train(str(pixel_store), str(run), recipe(*PIXELS), "cpu")
    return run


def test_it_trains_on_a_store_without_latents_and_its_loss_falls(pixel_teacher: Path) -> None:
    found = losses(pixel_teacher)
    assert np.mean(found[-3:]) < np.mean(found[:3])
    told = json.loads((pixel_teacher / "config.json").read_text())["usjepa"]
    assert told["teacher"] == "pixels"


def test_a_stopped_run_goes_on_to_the_same_losses(pixel_store: Path, pixel_teacher: Path, tmp_path: Path) -> None:
    for _ in range(3):
        train(str(pixel_store), str(tmp_path / "run"), recipe(*PIXELS), "cpu", stop_after_steps=6)
    assert losses(tmp_path / "run") == losses(pixel_teacher)


def test_a_run_does_not_go_on_with_another_objective(pixel_store: Path, tmp_path: Path) -> None:
    build(str(pixel_store.parent / "both.zarr"), recipe(), BuildRequest(teacher="random"))
    store = str(pixel_store.parent / "both.zarr")
    train(store, str(tmp_path / "run"), recipe(*PIXELS), "cpu", stop_after_steps=2)
    with pytest.raises(IdentityError, match="objective"):
        train(store, str(tmp_path / "run"), recipe(), "cpu")


@pytest.mark.slow
def test_its_encoder_is_a_teacher_like_any_other(pixel_store: Path, pixel_teacher: Path, tmp_path: Path) -> None:
    """Built twice with it, the second build has nothing to do; a student learns from it."""
    build(str(pixel_store), recipe(), BuildRequest(teacher=str(pixel_teacher)))
    layer = open_store(pixel_store).layers["latents/demo"]
    before = open_store(pixel_store).generation
    build(str(pixel_store), recipe(), BuildRequest(teacher=str(pixel_teacher)))
    assert open_store(pixel_store).generation == before
    assert layer.identity["teacher"]["architecture"] == "test_vit"
    train(str(pixel_store), str(tmp_path / "student"), recipe(), "cpu")
    assert np.isfinite(losses(tmp_path / "student")).all()


def test_only_patches_of_the_region_are_predicted_with_regions(pixel_store: Path, tmp_path: Path) -> None:
    train(str(pixel_store), str(tmp_path / "run"), recipe(*PIXELS, "train.masks.regions=true"), "cpu")
    assert np.isfinite(losses(tmp_path / "run")).all()
