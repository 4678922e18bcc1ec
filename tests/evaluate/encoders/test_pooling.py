"""Claims about pooling: each way equals loops over patches, regions weigh by area, and the report says which it was."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.evaluations import FAST, Place, add_latents, call, export_run
from tests.support.labelled import patients, write_labelled
from usjepa.cache.frames.cells import pack_cells
from usjepa.cache.reading.batch import Batch
from usjepa.cache.teacher.model_input import ModelInput
from usjepa.evaluate.encoders.baselines import Hog, PooledHog
from usjepa.evaluate.encoders.models import ModelEncoder
from usjepa.evaluate.encoders.pooling import _POOLINGS, _Pooled, _pooled, _quarters, pooled_by, region_shares

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def batch_of(regions_BSS: NDArray[np.bool_]) -> Batch:
    count, size = regions_BSS.shape[:2]
    packed = np.stack([pack_cells(region) for region in regions_BSS])
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, size, size)).astype(np.uint8)
    return Batch(np.arange(count), {"pixels": pixels, "regions": packed}, None)


@given(st.sampled_from([(4, 4), (8, 2), (2, 8), (6, 3), (3, 7)]), st.integers(0, 99))
def test_a_patchs_share_is_the_area_of_the_region_in_it_on_any_grid(grid: tuple[int, int], seed: int) -> None:
    regions = np.random.default_rng(seed).random((3, 12, 12)) < 0.2
    regions[2] = False
    shares = region_shares(batch_of(regions), grid)
    cells = regions.reshape(3, 6, 2, 6, 2).any(axis=(2, 4))
    fine = cells.repeat(28, axis=1).repeat(28, axis=2)  # 168 pixels: every grid's patches end on one
    rows, columns = 168 // grid[0], 168 // grid[1]
    wanted = fine.reshape(3, grid[0], rows, grid[1], columns).mean(axis=(2, 4))
    np.testing.assert_allclose(shares[:2], wanted[:2], atol=1e-6)
    assert (shares[2] == 1).all()  # nothing is known to be scan: all of the frame is looked at


@pytest.mark.parametrize(("size", "grid"), [(112, 7), (224, 14), (112, 14), (96, 6), (112, 3), (60, 7)])
def test_a_patch_beside_the_region_has_a_share_of_exactly_nothing(size: int, grid: int) -> None:
    for edge in range(2, size, 2):
        region = np.zeros((1, size, size), np.bool_)
        region[:, :edge, :edge] = True
        shares = region_shares(batch_of(region), (grid, grid))[0]
        touched = np.array([patch * size < edge * grid for patch in range(grid)])
        assert np.array_equal(shares > 0, touched[:, None] & touched)


@given(st.integers(1, 4), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_pooled_tokens_are_those_of_loops_over_patches(height: int, width: int, maximum: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((2, height, width, 3)).astype(np.float32)
    shares = np.where(rng.random((2, height, width)) < 0.5, 0, rng.random((2, height, width))).astype(np.float32)
    shares[:, 0, 0] = 0.5
    parts = _pooled(tokens, shares, maximum)
    assert len(parts) == 1 + maximum
    for image in range(2):
        mean, weight, most = np.zeros(3), 0.0, np.full(3, -np.inf)
        for row in range(height):
            for column in range(width):
                share = float(shares[image, row, column])
                mean, weight = mean + share * tokens[image, row, column], weight + share
                most = np.maximum(most, tokens[image, row, column]) if share > 0 else most
        np.testing.assert_allclose(parts[0][image], mean / weight, atol=1e-5)
        if maximum:
            np.testing.assert_array_equal(parts[1][image], most.astype(np.float32))


def small_vit(**more: Any) -> ModelEncoder:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=0, **more)
    return ModelEncoder("m", ModelInput(32, 3, (0.5,) * 3, (0.5,) * 3), {"weights": "w"}, lambda: model, "cpu")


def test_where_all_of_a_frame_is_scan_the_region_changes_nothing() -> None:
    encoder, batch = small_vit(), batch_of(np.ones((2, 32, 32), np.bool_))
    np.testing.assert_allclose(_Pooled(encoder, "region").features(batch), encoder.features(batch), atol=1e-5)
    np.testing.assert_array_equal(
        _Pooled(encoder, "region+max").features(batch)[:, 192:], _Pooled(encoder, "mean+max").features(batch)[:, 192:]
    )


def test_a_models_norm_behind_its_pooling_is_applied_to_each_part() -> None:
    encoder, batch = small_vit(global_pool="avg", fc_norm=True), batch_of(np.ones((2, 32, 32), np.bool_))
    norm: Any = encoder.model.fc_norm
    torch.nn.init.normal_(norm.weight)
    features = _Pooled(encoder, "mean+max").features(batch)
    np.testing.assert_allclose(features[:, :192], encoder.features(batch), atol=1e-5)
    most = torch.from_numpy(encoder.tokens(batch)).amax(dim=(1, 2))
    np.testing.assert_allclose(features[:, 192:], norm(most).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("grid", [(2, 2), (7, 7), (4, 6), (1, 3)])
def test_quarters_are_the_means_of_the_frames_quarters_on_any_grid(grid: tuple[int, int]) -> None:
    tokens = np.random.default_rng(0).standard_normal((3, *grid, 5)).astype(np.float32)
    fine = tokens.repeat(2, axis=1).repeat(2, axis=2)  # halves end on a token
    rows, columns = grid
    halves = [fine[:, :rows], fine[:, rows:]]
    wanted = [part.mean(axis=(1, 2)) for half in halves for part in (half[:, :, :columns], half[:, :, columns:])]
    np.testing.assert_allclose(_quarters(tokens), np.stack(wanted, axis=1), atol=1e-6)


def test_tokens_stand_side_by_side_and_quarters_of_a_constant_are_its_mean() -> None:
    encoder, batch = small_vit(), batch_of(np.ones((2, 32, 32), np.bool_))
    tokens = _Pooled(encoder, "tokens").features(batch)
    np.testing.assert_array_equal(tokens, encoder.tokens(batch).reshape(2, -1))
    quarters = _Pooled(encoder, "grid2").features(batch).reshape(2, 4, 192)
    np.testing.assert_allclose(quarters.mean(axis=1), encoder.features(batch), atol=1e-5)


def test_hog_pooled_like_an_encoder_is_the_mean_of_hogs_blocks() -> None:
    batch = batch_of(np.ones((2, 32, 32), np.bool_))
    plain, pooled = Hog().features(batch), PooledHog()
    assert plain.shape == (2, 1764)
    np.testing.assert_allclose(pooled.features(batch), plain.reshape(2, 49, 36).mean(axis=1), atol=1e-6)
    assert pooled_by(pooled, "grid2").features(batch).shape == (2, 4 * 36)
    assert pooled_by(Hog(), "grid2").features(batch).shape == (2, 1764)


def test_features_pooled_otherwise_are_other_features_and_what_has_no_tokens_stays_as_it_is() -> None:
    encoder, hog = small_vit(), Hog()
    assert pooled_by(encoder, "mean") is encoder
    assert pooled_by(hog, "region+max") is hog
    identities = [json.dumps(pooled_by(encoder, how).identity) for how in _POOLINGS]
    assert len(set(identities)) == len(_POOLINGS)
    assert "regions" in pooled_by(encoder, "region").layers
    assert "regions" not in pooled_by(encoder, "mean+max").layers


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("pooling")
    write_labelled(folder / "store.zarr", patients(12, ["cyst", "none"]), size=32)
    add_latents(folder / "store.zarr")
    export_run(folder / "run", folder / "store.zarr")
    return Place(folder / "run", folder / "store.zarr")


def test_a_report_pools_every_encoder_that_has_patch_tokens_as_asked_and_says_so(place: Place, tmp_path: Path) -> None:
    result = call(
        place.run, "--task", place.store, "-o", tmp_path, *FAST, "--encoder", "resnet18",
        "--set", "evaluate.pooling=region+max", "--set", "evaluate.baselines=[teacher,random,pixels]",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "scores.json").read_text())
    told = {name: (one["dim"], one["pooling"].split(";")[0]) for name, one in document["encoders"].items()}
    for name in ("student", "teacher", "random"):
        assert told[name] == (384, _POOLINGS["region+max"])
    assert told["pixels"] == (1024, "no pooling: 32 x 32 grey values, area-averaged")
    assert told["resnet18"][0] == 512
    assert _POOLINGS["region+max"] in html.unescape((tmp_path / "index.html").read_text())
