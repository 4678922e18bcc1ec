"""Claims about several targets in one student: one alone is as ever, losses are apart, resumes are exact."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from tests.support.runs import STEPS, losses, numbers, recipe
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = ("cache.teacher.depth=2", "cache.teacher.blocks=[1, 2]", "cache.precision=int8")
BOTH = ("train.targets=[demo.1, demo.2]", "train.target_weights=[1, 3]", "train.target_norm=whitened")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("several") / "s"
    build(str(root), recipe(*BLOCKS), BuildRequest(source="phantom", teacher="random"))
    return root


@pytest.fixture(scope="module")
def both(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("both") / "run"
    train(str(store), str(run), recipe(*BOTH), "cpu")
    return run


def test_each_targets_loss_is_logged_apart_and_the_loss_is_their_weighted_mean(both: Path) -> None:
    for line in (*numbers(both), *numbers(both, "validation")):
        each = line["losses"]
        assert list(each) == ["demo.1", "demo.2"]
        assert line["loss"] == pytest.approx((each["demo.1"] + 3 * each["demo.2"]) / 4, rel=1e-5)
    assert len(numbers(both)) == STEPS


def test_one_target_in_a_list_learns_bit_for_bit_what_it_learns_alone(store: Path, tmp_path: Path) -> None:
    for name, setting in (("list", "train.targets=[demo.2]"), ("name", "train.teacher=demo.2")):
        train(str(store), str(tmp_path / name), recipe(setting, "train.target_norm=standardised"), "cpu")
    assert losses(tmp_path / "list") == losses(tmp_path / "name")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("list", "name"))
    assert all(one[key].equal(other[key]) for key in other)
    assert "losses" not in numbers(tmp_path / "name")[0]


@pytest.mark.parametrize("steps", [pytest.param(2, marks=pytest.mark.slow), 7])
def test_a_stopped_run_goes_on_to_the_same_losses(store: Path, both: Path, tmp_path: Path, steps: int) -> None:
    train(str(store), str(tmp_path), recipe(*BOTH), "cpu", stop_after_steps=steps)
    train(str(store), str(tmp_path), recipe(*BOTH), "cpu")
    assert numbers(tmp_path) == numbers(both)
    assert numbers(tmp_path, "validation") == numbers(both, "validation")


def test_a_batch_in_parts_gives_the_losses_of_a_whole_one(store: Path, both: Path, tmp_path: Path) -> None:
    train(str(store), str(tmp_path), recipe(*BOTH, "train.accumulate=3"), "cpu", stop_after_steps=5)
    for line, whole in zip(numbers(tmp_path), numbers(both), strict=False):
        assert line["losses"] == pytest.approx(whole["losses"], rel=1e-4)


def test_targets_and_weights_are_part_of_the_run_and_are_exported_with_it(
    store: Path, both: Path, tmp_path: Path
) -> None:
    told = json.loads((both / "config.json").read_text())["usjepa"]
    assert told["teacher"] == "demo.1+demo.2"
    assert sorted(told["identity"]["teacher"]["targets"]) == ["demo.1", "demo.2"]
    train(str(store), str(tmp_path), recipe(*BOTH), "cpu", stop_after_steps=1)
    with pytest.raises(IdentityError, match="target_weights"):
        train(str(store), str(tmp_path), recipe(BOTH[0], BOTH[2]), "cpu")
