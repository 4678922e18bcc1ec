"""Claims about rivals of NT-Xent: their losses are what their authors wrote, in the product's own run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from benchmarks.learning.conditions import conditions
from benchmarks.learning.first_stages import NT_XENT, stages
from benchmarks.learning.rivals import LOSSES, joined, lejepa, rival, spread, vicreg
from tests.support.processes.commands import run_python
from tests.support.runs import TINY_RUN, TINY_STORE, losses
from usjepa.cache.recipes.recipe import load_recipe, override_recipe
from usjepa.train.objective.contrast_loss import contrast

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.learning.rivals import Loss

CODES = torch.arange(64)


def pairs(apart: float, seed: int = 0) -> torch.Tensor:
    """Points of 64 pairs, standard normal, whose partners differ by so much."""
    draws = torch.Generator().manual_seed(seed)
    first = torch.randn(64, 8, generator=draws)
    return torch.stack([first, first + apart * torch.randn(64, 8, generator=draws)], dim=1)


def test_vicreg_is_25_times_distance_and_spread_missed_and_once_the_covariance() -> None:
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.2, 0.2], [1.2, 0.2]]])
    # Partners are 1 apart in one of two numbers. Both sides: deviation sqrt(0.02 + 1e-4), covariance 0.02.
    missed = 1 - (0.02 + 1e-4) ** 0.5
    covariance = 2 * 0.02**2 / 2
    assert vicreg(points, CODES, 0.2).item() == pytest.approx(25 * 0.5 + 25 * missed + 2 * covariance, rel=1e-5)


def test_points_that_are_as_wide_as_wanted_and_not_correlated_cost_no_spread() -> None:
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(8, 1)
    assert [float(term) for term in spread(corners)] == [0.0, pytest.approx(0.0)]


@pytest.mark.parametrize("loss", [vicreg, lejepa, joined])
def test_partners_far_apart_and_a_collapse_to_one_point_cost_more(loss: Loss) -> None:
    torch.manual_seed(0)
    near = loss(pairs(0.1), CODES, 0.2)
    assert near < loss(pairs(1.0), CODES, 0.2)
    assert near < loss(torch.zeros(64, 2, 8) + 1e-3 * pairs(0.1), CODES, 0.2)


def test_lejepa_wants_a_standard_normal_not_only_its_variance() -> None:
    torch.manual_seed(0)
    normal = pairs(0.0)
    signs = torch.sign(normal[:, :1]).expand(-1, 2, -1)[:, :, :1].expand(-1, -1, 8)  # variance 1 along one line
    assert lejepa(normal, CODES, 0.2) < lejepa(signs.contiguous(), CODES, 0.2)


def test_the_joined_loss_is_nt_xent_and_the_spread_beside_it() -> None:
    points = pairs(0.3)
    told = contrast(functional.normalize(points, dim=-1), CODES, 0.2).loss_B.mean()
    beside = sum(float(v / 2 + c / 25) for v, c in (spread(points[:, side]) for side in (0, 1)))
    assert joined(points, CODES, 0.2).item() == pytest.approx(float(told) + beside, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_pairs_bear_the_loss_of_the_batch_so_that_its_gradient_is_that_of_the_loss(name: str) -> None:
    points = pairs(0.5).requires_grad_()
    torch.manual_seed(0)
    whole = LOSSES[name](points, CODES, 0.2)
    (wanted,) = torch.autograd.grad(whole, points)
    torch.manual_seed(0)
    (found,) = torch.autograd.grad(rival(LOSSES[name])(points, CODES, 0.2).loss_B.sum() / len(points), points)
    assert torch.allclose(found, wanted, atol=1e-7)


def test_first_stages_see_the_same_pairs_for_as_many_epochs_and_pixels_for_as_long() -> None:
    found = {one.name: one for one in stages(8)}
    assert list(found) == [NT_XENT, *LOSSES, "pixel teacher"]
    same = {(found[name].recipe, found[name].sets) for name in (NT_XENT, *LOSSES)}
    assert len(same) == 1
    made = override_recipe(load_recipe("small-teacher"), list(found["pixel teacher"].sets)).train
    assert (made.objective, made.epochs) == ("pixels", 22)
    assert found["VICReg"].programme[-1] == "VICReg"


@pytest.mark.slow
def test_a_run_by_a_rival_has_its_loss_and_not_that_of_the_product(phantom_store: Path, tmp_path: Path) -> None:
    settings = (*TINY_STORE, *TINY_RUN, "train.objective=contrast", "train.contrast.hidden=32", "train.contrast.dim=16")
    flags = [flag for value in settings for flag in ("--set", value)]
    found = {}
    for name in ("VICReg", "LeJEPA"):
        run_python(
            "-m", "benchmarks.learning.rivals", name, phantom_store, tmp_path / name, "--pipeline", "demo", *flags,
            "--stop-after-steps", 1, code=None,
        )  # fmt: skip
        found[name] = losses(tmp_path / name)[0]
    # Weights at the start give points near 0, whose spread is missed whole: 25 of VICReg; 0.05 of LeJEPA's statistic.
    assert 20 < found["VICReg"] < 30
    assert found["LeJEPA"] < 10


def test_students_of_depths_read_one_build_of_the_pixel_teacher() -> None:
    found = {one.name: one for one in conditions("demo", "depths")}
    (first,) = {first for one in found.values() for first in one.learns_from}
    assert override_recipe(load_recipe("demo"), list(first.sets)).cache.teacher.blocks == (2, 4, 6)  # type: ignore[union-attr]
    made = {name: override_recipe(load_recipe(one.recipe), list(one.sets)).train for name, one in found.items()}
    assert made["student of blocks 2,4,6"].targets == ("demo-depths.2", "demo-depths.4", "demo-depths.6")
    assert (made["student"].teacher, made["student of block 2"].teacher) == ("demo-depths.6", "demo-depths.2")
    assert made["visible patches, half weight"].visible_weight == 0.5
