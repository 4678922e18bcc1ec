"""Settings that can't work are refused when the recipe is read, by the field's name, before any file is touched."""

from __future__ import annotations

import re

import pytest

from usjepa.cache.errors import RecipeError
from usjepa.cache.recipes.recipe import load_recipe, recipe_names

REVERSED = "the first number must not be above the second"
ABOVE_1 = "input should be less than or equal to 1"
REFUSED = [
    ("cache.views.crop_scale", "[1.0, 0.6]", REVERSED),
    ("cache.views.crop_scale", "[0.5, 1.5]", ABOVE_1),
    ("cache.preprocess.percentiles", "[98, 2]", "the first number must be below the second"),
    ("cache.preprocess.percentiles", "[50, 50]", "the first number must be below the second"),
    ("train.masks.target_scale", "[0.2, 0.1]", REVERSED),
    ("train.masks.target_scale", "[0.2, 1.1]", ABOVE_1),
    ("train.masks.context_scale", "[1, 0.85]", REVERSED),
    ("train.masks.target_aspect", "[1.5, 0.75]", REVERSED),
    ("train.augment.blur_sigma", "[1.5, 0.1]", REVERSED),
    ("train.augment.contrast_factor", "[2, 1]", REVERSED),
    ("train.betas", "[0.9, 1.0]", "input should be less than 1"),
    ("cache.teacher.mean", "[123.7, 0.5, 0.5]", ABOVE_1),
    ("train.student.mean", "[0.5, 0.5, 1.1]", ABOVE_1),
    (
        "cache.image_size",
        "100",
        "must be a multiple of 16, the edge of a patch (teacher.architecture)",
    ),
    ("cache.teacher.image_size", "100", "must be a multiple of 16, the edge of a patch (teacher.architecture)"),
    ("train.predictor.heads", "5", "must divide dim (64)"),
    ("train.warmup_epochs", "8", "must be less than epochs (8)"),
    ("evaluate.few_shot", "[0.1, 0.1]", "must not name anything twice"),
]


def test_settings_can_be_keys_of_caches() -> None:
    one, other = (load_recipe("us-jepa", [f"cache.teacher.args={{num_heads: {heads}}}"]).cache for heads in (6, 12))
    assert hash(one) == hash(one.model_copy()) != hash(other)


@pytest.mark.parametrize(("field", "value", "rule"), REFUSED, ids=[f"{field}={value}" for field, value, _ in REFUSED])
def test_what_can_not_work_is_refused_by_name(field: str, value: str, rule: str) -> None:
    with pytest.raises(RecipeError, match=f"^pipelines.yaml: recipe demo: {field}.* = .*: {re.escape(rule)}"):
        load_recipe("demo", [f"{field}={value}"])


def test_an_image_of_no_whole_patches_names_the_setting_that_says_how_large_they_are() -> None:
    with pytest.raises(RecipeError, match=r"cache\.image_size = 112: must be a multiple of 15, .*teacher\.patch_size"):
        load_recipe("demo", ["cache.teacher.patch_size=15"])


@pytest.mark.parametrize(
    "override",
    [
        "cache.views.crop_scale=[0.6, 0.6]",
        "train.masks.target_scale=[1, 1]",
        "train.augment.contrast_factor=[0.5, 3]",
        "cache.preprocess.percentiles=[0, 100]",
        "train.betas=[0, 0]",
        "cache.teacher.patch_size=14",
        "cache.teacher.architecture=resnet26d",
        "cache.teacher=null",
    ],
)
def test_what_can_work_is_taken(override: str) -> None:
    assert load_recipe("demo", [override])


def test_a_fault_that_concerns_a_whole_section_does_not_print_the_section() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", ["train.objective=pixels", "train.targets=online"])
    assert str(caught.value) == (
        "pipelines.yaml: recipe demo: train.objective = 'pixels': has no teacher: leave out targets and teacher"
    )


def test_cells_that_fill_no_patch_are_refused_where_pixels_are_predicted() -> None:
    with pytest.raises(RecipeError, match=r"train\.pixel_cell = 3: must divide the edge of the .* patches \(16\)"):
        load_recipe("demo-teacher", ["train.pixel_cell=3"])
    assert load_recipe("demo", ["train.pixel_cell=3"])


def test_every_shipped_recipe_can_work() -> None:
    assert all(load_recipe(name) for name in recipe_names())
