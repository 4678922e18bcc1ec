"""Recipes are typed, every mistake is named where it stands, and the paper's settings are the paper's."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest

from usjepa.cache.errors import RecipeError
from usjepa.cache.recipes.base import Settings, section_model
from usjepa.cache.recipes.describe import describe_recipe
from usjepa.cache.recipes.recipe import Recipe, _validated, load_recipe, override_recipe, recipe_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_the_recipes_are_there_in_the_order_of_the_file() -> None:
    first_stages = ["demo-teacher", "demo-contrast"]
    assert recipe_names() == [
        "us-jepa", "usrc-jepa", "demo", *first_stages, "small", "small-contrast", "patients", "patients-contrast",
        "patients-brief", "patients-brief-contrast", "dense", "dense-teacher", "small-teacher",
    ]  # fmt: skip
    for name in recipe_names():
        assert load_recipe(name).description


def test_us_jepa_holds_the_papers_settings() -> None:
    train = load_recipe("us-jepa").train
    assert (train.lr_start, train.lr, train.lr_final) == (5e-6, 5e-5, 5e-7)
    assert (train.epochs, train.warmup_epochs, train.batch_size) == (100, 10, 128)
    assert (train.weight_decay, train.weight_decay_final) == (0.04, 0.4)
    assert (train.masks.target_scale, train.masks.context_scale) == ((0.075, 0.125), (0.85, 1.0))
    assert (train.predictor.depth, train.predictor.dim) == (12, 384)
    assert load_recipe("us-jepa").cache.views.crop_scale == (0.6, 1.0)
    assert (train.dataset_cap, train.validation_fraction) == (50_000, 0.05)


def test_usrc_jepa_differs_from_us_jepa_in_the_regions_alone() -> None:
    plain, conditioned = load_recipe("us-jepa").model_dump(), load_recipe("usrc-jepa").model_dump()
    assert conditioned["train"]["masks"].pop("regions") is True
    assert plain["train"]["masks"].pop("regions") is False
    assert {**plain, "description": ""} == {**conditioned, "description": ""}


@pytest.mark.parametrize("text", ["1e-4", "0.0001", "1.0e-04", "1E-4"])
def test_a_number_in_any_spelling_is_a_number(text: str, tmp_path: Path) -> None:
    assert load_recipe("demo", [f"train.lr={text}"]).train.lr == 1e-4
    assert load_recipe("mine", (), written(tmp_path, f"mine:\n  train:\n    lr: {text}\n")).train.lr == 1e-4


def test_overrides_reach_optional_sections_lists_and_null() -> None:
    recipe = load_recipe("demo", ["cache.teacher.mean=[0.1, 0.2, 0.3]", "train.clip=0.02", "cache.source=null"])
    assert recipe.cache.teacher is not None
    assert recipe.cache.teacher.mean == (0.1, 0.2, 0.3)
    assert recipe.train.clip == 0.02
    assert recipe.cache.source is None
    whole = load_recipe("demo", ["cache.teacher=null", "cache.teacher.name=urfm"]).cache.teacher
    assert whole is not None
    assert whole.name == "urfm", "a section that is not there begins with its defaults"


def test_a_text_field_keeps_what_looks_like_a_date() -> None:
    assert load_recipe("demo", ["cache.source=2026-01-31"]).cache.source == "2026-01-31"


def test_overrides_on_a_runs_own_recipe_are_checked_alike() -> None:
    recipe = load_recipe("us-jepa")
    assert override_recipe(recipe, []) == recipe
    assert override_recipe(recipe, ["train.lr=1e-3"]).train.lr == 1e-3
    with pytest.raises(RecipeError, match=r"unknown key train\.lrr; did you mean 'lr'"):
        override_recipe(recipe, ["train.lrr=1e-3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", r"unknown key train\.lrr; did you mean 'lr'"),
        ("trian.lr=1", r"unknown key trian; did you mean 'train'"),
        ("cache.teacher.achitecture=x", r"unknown key cache\.teacher\.achitecture; did you mean 'architecture'"),
        ("train.lr=fast", r"train\.lr = 'fast': .*number"),
        ("train.lr=-1", r"train\.lr = -1: .*greater than 0"),
        ("train.epochs=1.5", r"train\.epochs = 1\.5"),
        ("train.epochs='12'", r"train\.epochs = '12': .*integer"),
        ("train.lr=true", r"train\.lr = True: .*number"),
        ("train.masks.regions=yes", r"train\.masks\.regions = 'yes': .*boolean"),
        ("train.lr.peak=1", r"train\.lr = .*number"),
        ("cache.views=3", r"cache\.views = 3"),
        ("train..lr=1", "write it as section.key=value"),
        ("cache.precision=fp8", r"cache\.precision = 'fp8': .*'fp32', 'fp16', 'int8' or 'int4'"),
        ("train.warmup_epochs=50", r"train\.warmup_epochs = 50: must be less than epochs \(8\)"),
        ("train.lr", "write it as section.key=value"),
        ("=3", "write it as section.key=value"),
        ("train.lr=[1", "--set train.lr"),
        ("train=3", "train"),
    ],
)
def test_a_wrong_override_is_refused_with_the_field_and_the_way_out(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo", [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine:\n  train:\n    lr: 1\n    lr: 2\n", r"mine\.yaml, line 4: found duplicate key"),
        ("mine:\n  train:\n    epoch: 3\n", r"unknown key train\.epoch; did you mean 'epochs'"),
        ("mine: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("mine: [1, 2]\n", "must have sections"),
        ("- a\n", "contains no recipes"),
        ("mine: {", "line"),
        ("mine:\n  extends: yours\nyours:\n  extends: mine\n", "circle: mine -> yours -> mine"),
        ("mine:\n  extends: your\n", "no recipe 'your'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line_or_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("mine", (), written(tmp_path, text))


def test_an_unknown_recipe_names_the_nearest_and_all() -> None:
    with pytest.raises(
        RecipeError,
        match=r"no recipe 'us-jepaa'; did you mean 'us-jepa'\? "
        r"There are: us-jepa, usrc-jepa, demo, demo-teacher, demo-contrast, small, ",
    ):
        load_recipe("us-jepaa")


def test_a_missing_recipe_file_is_said() -> None:
    with pytest.raises(RecipeError, match=r"/nowhere/x\.yaml: the recipe file can't be read"):
        load_recipe("demo", (), "/nowhere/x.yaml")


def test_the_printed_recipe_is_itself_a_recipe_and_documents_its_fields(tmp_path: Path) -> None:
    awkward = "train.exclude_splits=['a, b', 'say \"no\"', 'ü\\b']"
    recipe = load_recipe("us-jepa", ["train.lr=3e-4", awkward])
    text = describe_recipe(recipe)
    indented = "mine:\n" + "".join(f"  {line}\n" for line in text.splitlines())
    assert load_recipe("mine", (), written(tmp_path, indented)) == recipe
    assert "# Peak learning rate, at the end of the warmup." in text
    assert "# Multiblock masks" in text, "a section says what it is for"


def _undocumented(model: type[Recipe], path: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        section = section_model(field.annotation)
        if section is not None:
            found += _undocumented(section, f"{path}{name}.")  # type: ignore[arg-type]
        elif not field.description:
            found.append(path + name)
    return found


def test_every_field_has_its_meaning() -> None:
    assert _undocumented(Recipe) == []


def _numbers(model: type[Settings], path: str = "") -> Iterator[str]:
    """Yield the fields that are a number, and the elements of those that are several."""
    for name, field in model.model_fields.items():
        section = section_model(field.annotation)
        if section is not None:
            yield from _numbers(section, f"{path}{name}.")
        elif any(kind in str(field.annotation) for kind in ("int", "float")):
            yield path + name


def test_no_setting_takes_a_number_without_end_or_one_that_no_machine_can_mean() -> None:
    """Each would be met hours later, by torch, NumPy or the system."""
    values = load_recipe("us-jepa").model_dump()
    fields = [field for field in _numbers(Recipe) if field != "train.explosion"]  # a limit, which may be high
    assert len(fields) > 70
    for field in fields:
        *sections, name = field.split(".")
        below = values
        for section in sections:
            below = below[section]
        for wrong in (math.nan, math.inf, -math.inf, 10**30, -(10**30)):
            kept = below[name]
            below[name] = [*kept[:-1], wrong] if isinstance(kept, tuple) else wrong
            with pytest.raises(RecipeError, match=re.escape(field)):
                _validated(values, "recipe")
            below[name] = kept
    assert _validated(values, "recipe") == load_recipe("us-jepa")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("train.lr=1e999", "train.lr = inf: ", id="a number beyond floats"),
        pytest.param(f"train.lr={'[' * 500}", "nested too deep", id="nested too deep"),
        pytest.param(f"train.epochs={'1' * 5000}", "not readable as YAML", id="an integer of 5,000 digits"),
        pytest.param(f"cache.teacher.name={'x' * 300}", "cache.teacher.name = 'xxx", id="a name that no file can have"),
        pytest.param("cache.teacher.mean=[1.5, 0.5, 0.5]", "cache.teacher.mean.0 = 1.5", id="a mean above 1"),
        pytest.param("cache.teacher.std=[0.0, 1.0, 1.0]", "cache.teacher.std.0 = 0.0", id="a deviation of 0"),
        pytest.param("cache.views.crop_scale=[1.0, 0.6]", "must not be above the second", id="a reversed range"),
        pytest.param("cache.preprocess.percentiles=[98, 2]", "must be below the second", id="reversed percentiles"),
        pytest.param("train.betas=[0.9, 1.0]", "train.betas.1 = 1.0", id="a beta that AdamW refuses"),
        pytest.param("cache.image_size=100", "must be a multiple of 16", id="no multiple of the patch"),
        pytest.param("cache.decode_processes=100000", "cache.decode_processes", id="more processes than any machine"),
    ],
)
def test_a_value_that_can_not_work_is_refused_when_it_is_read(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        load_recipe("demo", [override])
    assert len(str(caught.value)) < 500


def test_a_file_of_recipes_without_end_is_refused() -> None:
    with pytest.raises(RecipeError, match="/dev/zero: more than 1,048,576 bytes"):
        load_recipe("demo", (), "/dev/zero")
