"""The targets of a training are the latents of the layer that it names, stored or computed in the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.support.builds import small
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.reading.store import Store, open_store
from usjepa.train.objective.targets import Targets, choose_targets

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe

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
