"""What a run's identity holds, and that a run may be resumed with other values of every field outside it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.cache.thinning.test_collect import generations
from tests.support.recipes import another, leaves
from tests.support.runs import recipe
from usjepa.cache.errors import IdentityError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.marks import Hard, _marks_of
from usjepa.cache.recipes.recipe import override_recipe
from usjepa.cache.recipes.train import TrainSettings
from usjepa.cache.thinning.collect import collect
from usjepa.train.run.loop import train
from usjepa.train.run.plan import make_plan

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = dict(leaves(TrainSettings))
RESOLVED = "teacher"
"""Counts by the layer that it names, so that naming the only one is no other run."""


@pytest.mark.parametrize("path", FIELDS)
def test_a_run_is_another_with_each_field_marked_so_and_with_no_other(path: str, phantom_store: Path) -> None:
    base = recipe("train.warmup_epochs=1", "train.epochs=4", "train.pixel_cell=1", "cache.teacher.weights=null")
    if path == "target_weights":
        base = override_recipe(base, ['train.targets=["demo"]'])
    value: object = base.train
    for name in path.split("."):
        value = getattr(value, name)
    other = override_recipe(base, [f"train.{path}={json.dumps(another(FIELDS[path], value))}"])
    if path == RESOLVED:
        other = override_recipe(base, ["train.teacher=demo"])
    plans = [make_plan(str(phantom_store), one, "cpu", None) for one in (base, other)]
    hard = any(isinstance(mark, Hard) and "training" in mark.artifacts for mark in _marks_of(FIELDS[path]))
    assert (plans[0].identity != plans[1].identity) == (hard and path != RESOLVED)


def test_an_exported_encoder_names_the_content_of_its_store(phantom_store: Path, tmp_path: Path) -> None:
    train(str(phantom_store), str(tmp_path), recipe(), "cpu")
    store = open_store(phantom_store)
    told = json.loads((tmp_path / "config.json").read_text())["usjepa"]["store"]
    assert told == {"generation": 1, "digest": store.digest, "content": store.content_digest()}


def test_a_run_whose_generation_was_deleted_is_told_so_and_not_that_its_settings_differ(
    phantom_store: Path, tmp_path: Path
) -> None:
    store, run = str(shutil.copytree(phantom_store, tmp_path / "s.zarr")), tmp_path / "run"
    train(store, str(run), recipe(), "cpu", stop_after_steps=1)
    shutil.rmtree(tmp_path / "s.zarr" / "pins")
    generations(tmp_path / "s.zarr", 1, "latents/demo")
    train(store, str(run), recipe(), "cpu", stop_after_steps=1)  # the one before is still there
    shutil.rmtree(tmp_path / "s.zarr" / "pins")
    collect(store)
    with pytest.raises(IdentityError, match=r"(?s)began on generation 1 .*now at generation 2.*usjepa-cache gc"):
        train(store, str(run), recipe(), "cpu")
    with pytest.raises(IdentityError, match="other settings"):
        train(store, str(run), recipe("train.lr=1e-4"), "cpu")
