"""Each field of a recipe says what it identifies, and changing it changes that identity and no other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

import pytest
import timm
import torch

from tests.support.recipes import another, leaves
from usjepa.cache.frames.layers import pixel_layers
from usjepa.cache.identity import digest_of
from usjepa.cache.recipes.cache import CacheSettings, PreprocessSettings
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.cache.recipes.marks import Hard, NoEffect, _marks_of, conditions_of, describe_marks, hard_values
from usjepa.cache.recipes.recipe import Recipe, load_recipe, override_recipe
from usjepa.cache.recipes.train import TrainSettings
from usjepa.cache.sources.phantom.source import Phantom
from usjepa.cache.teacher.layers import latent_layers
from usjepa.cache.teacher.resolve import load_teacher

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic.fields import FieldInfo

LEAVES = dict(leaves(Recipe))
CACHE = [path for path in LEAVES if path.startswith("cache.")]
TEACHER = [path for path in LEAVES if path.startswith("cache.teacher.")]
PHANTOM = [path for path in LEAVES if path.startswith("cache.phantom.")]


def is_hard(field: FieldInfo, artifact: str) -> bool:
    return any(isinstance(mark, Hard) and artifact in mark.artifacts for mark in _marks_of(field))


@pytest.mark.parametrize("path", LEAVES)
def test_every_field_says_once_what_it_identifies(path: str) -> None:
    marks = _marks_of(LEAVES[path])
    assert marks, f"{path} has no mark: annotate it with Hard(...), Soft(...) or NoEffect()"
    assert any(isinstance(mark, NoEffect) for mark in marks) == (len(marks) == 1 and not marks[0].artifacts)
    named = [artifact for mark in marks for artifact in mark.artifacts]
    assert len(named) == len(set(named))


def test_marks_are_told_in_words() -> None:
    told = {path: describe_marks(field) for path, field in LEAVES.items()}
    assert told["cache.image_size"] == "hard: pixels"
    assert told["cache.teacher.batch_size"] == "soft: latents; hard: evaluation"
    assert told["train.tensorboard"] == "no effect"
    assert told["train.pixel_cell"] == "hard: training; only with objective: pixels"
    assert {word for words in told.values() for word in words.split("; ") if not word.startswith("only")} <= {
        "no effect",
        *(f"{kind}: {artifact}" for kind in ("hard", "soft") for artifact in ("rows", "pixels", "latents", "training")),
        "hard: evaluation",
        "hard: latents, evaluation",
    }


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["train.objective=contrast", "train.masks.tries=9"],
         'it counts only with objective: latents or pixels, and train.objective is "contrast"'),
        (["train.objective=contrast", "train.predictor={depth: 3}"], "it counts only with objective"),
        (["train.contrast.temperature=0.1"], 'it counts only with objective: contrast, and '
         'train.objective is "latents"'),
        (["train.pixel_cell=2"], "it counts only with objective: pixels"),
        (["train.loss=l1", "train.beta=2.0"], 'it counts only with loss: smooth_l1, and train.loss is "l1"'),
        (["train.probe_frames=7"], "it counts only with probe, and train.probe is null"),
        (["evaluate.attentive_frames=7"], "counts only with attentive, and evaluate.attentive is false"),
        (["cache.preprocess.deidentify=false", "cache.preprocess.text=keep"], "counts only with deidentify"),
    ],
)  # fmt: skip
def test_an_override_without_effect_is_told_with_the_setting_that_makes_it_so(
    sets: list[str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_recipe("us-jepa", sets)
    (told,) = caplog.messages
    assert told.startswith(f"--set {sets[-1].partition('=')[0]} has no effect: ")
    assert said in told


def test_overrides_that_count_are_taken_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    contrast = ["train.objective=contrast", "train.contrast.temperature=0.1", "train.augment.blur_probability=1.0"]
    for sets in (contrast, ["train.objective=pixels", "train.pixel_cell=2", "train.masks.tries=3"], ["train.beta=2.0"]):
        load_recipe("us-jepa", sets)
    assert not caplog.messages


def test_an_override_that_another_setting_asks_for_is_taken_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    contrast = ["train.objective=contrast", "train.target_norm=none", "train.visible_weight=0.0"]
    for sets in (contrast, ["evaluate.unit=frame", "evaluate.gather=predictions"], ["cache.teacher.args={eps: 1e-5}"]):
        load_recipe("us-jepa", sets)
    assert not caplog.messages


def test_conditions_name_fields_beside_theirs_and_values_that_these_may_have() -> None:
    for section in (CacheSettings, PreprocessSettings, TrainSettings, EvaluateSettings):
        for field in section.model_fields.values():
            for only in conditions_of(field):
                allowed = get_args(section.model_fields[only.field].annotation)
                assert set(only.values) <= set(allowed), only


def changed(recipe: Recipe, path: str) -> Recipe:
    return override_recipe(recipe, [f"{path}={json.dumps(another(LEAVES[path], value_at(recipe, path)))}"])


def value_at(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("path", CACHE)
def test_a_pixel_layer_is_another_with_each_field_marked_so_and_with_no_other(path: str) -> None:
    recipe = load_recipe("demo", ["cache.teacher.image_size=32"])
    layers = [pixel_layers(one.cache, 64) for one in (recipe, changed(recipe, path))]
    assert (layers[0] != layers[1]) == is_hard(LEAVES[path], "pixels")


@pytest.mark.parametrize("path", TEACHER)
def test_latents_are_other_ones_with_each_field_of_the_teacher_marked_so_and_with_no_other(
    path: str, tmp_path: Path
) -> None:
    tiny = ["architecture=test_vit", "patch_size=8", "depth=2", "image_size=32"]
    recipe = load_recipe("demo", [f"cache.teacher.{text}" for text in tiny])
    if path.endswith((".weights", ".key")):  # they count by what they read
        model = timm.create_model("test_vit", num_classes=0, img_size=32, patch_size=8, depth=2)
        weights = model.state_dict()
        torch.save({"x": weights, "ema": {name: w / 2 for name, w in weights.items()}}, tmp_path / "x.pth")
        file = f"cache.teacher.weights={tmp_path / 'x.pth'}"
        recipe = recipe if path.endswith(".weights") else override_recipe(recipe, [file])
        other = override_recipe(recipe, [file if path.endswith(".weights") else f"{path}=x"])
    else:
        other = changed(recipe, path)
    digests = []
    for one in (recipe, other):
        assert one.cache.teacher is not None
        pixels = pixel_layers(one.cache, 64)[0]
        teacher = load_teacher(one.cache.teacher, 32, "cpu")
        digests.append([layer.digest for layer in latent_layers(teacher, one.cache.form, pixels, 64)])
    assert (digests[0] != digests[1]) == is_hard(LEAVES[path], "latents")


@pytest.mark.parametrize("path", PHANTOM)
def test_a_phantom_source_has_another_content_with_each_field_marked_hard_and_with_no_other(path: str) -> None:
    recipe = load_recipe("demo")
    contents = [
        Phantom(one.cache.phantom).content_hash(Phantom(one.cache.phantom).patients()[0].path)
        for one in (recipe, changed(recipe, path))
    ]
    assert (contents[0] != contents[1]) == is_hard(LEAVES[path], "rows")


def test_the_values_of_an_identity_are_nested_like_the_recipe() -> None:
    values = hard_values(load_recipe("us-jepa").cache, "pixels")
    assert sorted(values) == ["image_size", "preprocess", "seed", "views"]
    assert values["views"]["crop_scale"] == [0.6, 1.0]


def test_identities_are_those_of_stores_and_runs_on_disk() -> None:
    # A new hard field changes them: every store, run or report made before is then another one. If that is not
    # meant, the field is soft or without effect; if it is, write it into CHANGELOG.md with the new digest.
    recipe = load_recipe("us-jepa")
    assert digest_of(hard_values(recipe.cache, "pixels")) == "903f77f43dd5a69147a76b840577a1e8"
    assert digest_of(hard_values(recipe.train, "training")) == "295b3c7a1afa695ca7d226c447337d6a"
    assert digest_of(hard_values(recipe.evaluate, "evaluation")) == "1165a437fea64817734ded39d71aea3e"
    assert recipe.cache.teacher is not None
    assert digest_of(hard_values(recipe.cache.teacher, "evaluation")) == "ffb2b3bac42e5f21eb99444be6d19e3b"
