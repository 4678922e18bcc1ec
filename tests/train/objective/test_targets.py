"""The targets of a training are the latents of the layer that it names, stored or computed in the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builds import small
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError, RecipeError, UsageError
from usjepa.cache.reading.store import Store, open_store
from usjepa.train.objective.loss import image_losses, several_losses
from usjepa.train.objective.target_norm import equal_variances, measured, restored
from usjepa.train.objective.targets import Targets, choose_targets

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.train.objective.target_norm import Mode

BLOCKS = ("cache.teacher.depth=2", "cache.teacher.blocks=[1, 2]")


def recipe(*more: str) -> Recipe:
    return small(*BLOCKS, *more)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root: Path = tmp_path_factory.mktemp("targets") / "s"
    build(str(root), recipe(), BuildRequest(teacher="random"))
    return open_store(root)


def chosen(store: Store, *more: str) -> Targets:
    return choose_targets(store, recipe(*more), torch.device("cpu"))


def test_a_training_names_one_of_several_blocks_by_its_layer(store: Store) -> None:
    assert chosen(store, "train.teacher=demo.1").layers[0] == "latents/demo.1"
    with pytest.raises(UsageError, match=r"holds latents of demo\.1, demo\.2, so the targets are not clear: name one"):
        chosen(store)
    with pytest.raises(UsageError, match=r"no latents of 'demo'\. It holds latents of: demo\.1, demo\.2"):
        chosen(store, "train.teacher=demo")


@pytest.mark.parametrize("name", ["demo.1", "demo.2"])
def test_a_block_that_is_computed_in_the_loop_is_the_stored_one(store: Store, name: str) -> None:
    online = chosen(store, "train.targets=online", f"train.teacher={name}")
    stored = store.read(store.rows[:4], teacher=name)
    assert online.identity == {"teacher": store.identity[f"latents/{name}"]["teacher"]}
    assert online.online is not None
    assert torch.equal(online.online(torch.from_numpy(stored.pixels)), stored.targets())


def test_blocks_in_the_loop_need_a_name_and_are_refused_where_the_stored_ones_are_others(store: Store) -> None:
    with pytest.raises(UsageError, match=r"cache\.teacher\.blocks names demo\.1, demo\.2, and one is needed here"):
        chosen(store, "train.targets=online")
    with pytest.raises(UsageError, match=r"there is no demo\.3"):
        chosen(store, "train.targets=online", "train.teacher=demo.3")
    with pytest.raises(IdentityError, match=r"latents/demo\.1 comes from another teacher"):
        chosen(store, "train.targets=online", "train.teacher=demo.1", "cache.teacher.seed=5")


def test_several_layers_lie_side_by_side_and_are_read_once_a_batch(store: Store) -> None:
    joined = chosen(store, "train.targets=[demo.2, demo.1]", "train.target_weights=[3, 1]")
    assert joined.layers[::2] == ("latents/demo.2", "latents/demo.1")
    assert joined.weights == (0.75, 0.25)
    assert joined.dim == 2 * 192
    read = store.read(store.rows[:4], layers=[name for name in joined.layers if name in store.layers])
    found = joined.stored(read, "cpu")
    for place, name in enumerate(("demo.2", "demo.1")):
        alone = store.read(store.rows[:4], teacher=name).targets()
        assert torch.equal(found[..., 192 * place : 192 * (place + 1)], alone)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("train.targets=[demo.1, demo.1]",), "must name one layer of latents or more, each once"),
        (("train.targets=[]",), "must name one layer of latents or more"),
        (("train.targets=[demo.1]", "train.teacher=demo.2"), r"leave out teacher \(demo\.2\)"),
        (("train.targets=[demo.1, demo.2]", "train.target_weights=[1]"), "must have one weight for each target, 2"),
        (("train.target_weights=[1]",), "must have one weight for each target, 0"),
        (("train.objective=pixels", "train.targets=[demo.1]"), "has no teacher: leave out targets"),
    ],
)
def test_targets_that_contradict_one_another_are_refused(settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe(*settings)


def test_a_target_that_the_store_lacks_is_named(store: Store) -> None:
    with pytest.raises(UsageError, match=r"no latents of 'demo\.9'\. It holds latents of: demo\.1, demo\.2"):
        chosen(store, "train.targets=[demo.1, demo.9]")


def test_the_loss_of_several_targets_is_the_weighted_mean_of_what_each_has_by_itself(store: Store) -> None:
    settings = recipe("train.targets=[demo.1, demo.2]", "train.target_weights=[1, 3]").train
    joined = chosen(store, "train.targets=[demo.1, demo.2]", "train.target_weights=[1, 3]")
    made = torch.Generator().manual_seed(0)
    one, other = (torch.randn(3, 2, 5, 384, generator=made) for _ in range(2))
    valid = torch.rand(3, 2, 5, generator=made) > 0.3
    image_B, each_KB = several_losses(one, other, valid, settings, joined)
    alone = [
        image_losses(one[..., here], other[..., here], valid, settings)[0] for here in (slice(192), slice(192, 384))
    ]
    torch.testing.assert_close(each_KB, torch.stack(alone))
    torch.testing.assert_close(image_B, (alone[0] + 3 * alone[1]) / 4)


@pytest.mark.parametrize("mode", ["none", "layer", "standardised", "whitened", "rotated"])
def test_each_of_several_targets_is_normalised_as_it_is_alone_and_a_checkpoint_keeps_it(
    store: Store, mode: Mode
) -> None:
    joined = chosen(store, "train.targets=[demo.1, demo.2]")
    positions, cpu = np.arange(len(store)), torch.device("cpu")
    norm = measured(mode, store, joined, positions, cpu)
    read = store.read(store.rows, layers=[name for name in joined.layers if name in store.layers])
    found = norm(joined.stored(read, "cpu"))
    for place, part in enumerate(joined.parts):
        alone = measured(mode, store, part, positions, cpu)(part.stored(read, "cpu"))
        assert torch.equal(found[..., 192 * place : 192 * (place + 1)], alone)
    again = restored(mode, joined, norm.state())
    assert torch.equal(again(joined.stored(read, "cpu")), found)


def test_rotated_targets_have_one_variance_in_all_channels_and_keep_angles(store: Store) -> None:
    target = chosen(store, "train.teacher=demo.1")
    positions = np.arange(len(store))
    latents = target.stored(store.read(store.rows, teacher="demo.1"), "cpu")
    found = measured("rotated", store, target, positions, torch.device("cpu"))(latents).flatten(0, 1).double()
    torch.testing.assert_close(found.mean(0), torch.zeros(192).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.var(0, unbiased=False), torch.ones(192).double(), atol=1e-3, rtol=0)
    plain = latents.flatten(0, 1).double()
    plain = plain - plain.mean(0)
    scale = found.norm() / plain.norm()
    torch.testing.assert_close(found @ found.T, scale**2 * (plain @ plain.T), atol=2e-2, rtol=1e-3)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(-6, 2))
def test_any_covariance_is_turned_to_one_variance(dim: int, seed: int, spread: float) -> None:
    made = np.random.default_rng(seed).standard_normal((dim, dim)) * np.logspace(0, spread, dim)
    covariance = made @ made.T
    turned, variance = equal_variances(covariance)
    np.testing.assert_allclose(turned @ turned.T, np.eye(dim), atol=1e-9)
    np.testing.assert_allclose(np.diagonal(turned.T @ covariance @ turned), variance, rtol=1e-7)
    assert variance == pytest.approx(np.trace(covariance) / dim)
