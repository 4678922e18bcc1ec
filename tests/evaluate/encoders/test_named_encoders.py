"""Claims about encoders that are named: each is given its own input, says how it pools, and is known by its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.support.evaluations import FAST, call, export_run
from tests.support.labelled import patients, write_labelled
from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.recipes.cache import CacheSettings, TeacherSettings
from usjepa.cache.recipes.recipe import Recipe
from usjepa.cache.teacher.model_input import ModelInput
from usjepa.evaluate.encoders.encoders import Encoders
from usjepa.evaluate.encoders.finished_run import open_run
from usjepa.evaluate.encoders.models import OWN_POOLING, POOLING, ModelEncoder
from usjepa.evaluate.encoders.named import named_encoders

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.reading.batch import Batch

TINY = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    store = write_labelled(tmp_path_factory.mktemp("named") / "s.zarr", patients(2, ["a", "b"]), size=32)
    return store.read(store.rows, layers=("pixels",))


def one(text: str, recipe: Recipe | None = None) -> Any:
    (found,) = named_encoders((text,), recipe or Recipe(), "cpu")
    return found


def test_a_timm_name_is_given_its_own_size_and_normalisation(batch: Batch) -> None:
    found = one(TINY)
    assert found.title == f"{TINY} (random weights)"
    assert found.encoder.identity["input"] == {"size": 224, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert found.encoder.pooling == POOLING
    x = torch.from_numpy(batch.pixels).float().expand(-1, 3, -1, -1) / 255
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        wanted = found.encoder.model.forward_features((x - 0.5) / 0.5)[:, 1:].mean(dim=1)
    features = found.encoder.features(batch)
    assert features.dtype == np.float32
    assert np.allclose(features, wanted.numpy(), atol=1e-5)


def test_random_weights_do_not_depend_on_what_was_drawn_before(batch: Batch) -> None:
    first = one(TINY).encoder.features(batch)
    torch.rand(3)
    assert np.array_equal(one(TINY).encoder.features(batch), first)


def test_a_model_without_patch_tokens_gives_what_its_own_head_would_see(batch: Batch) -> None:
    found = one("resnet18")
    assert found.encoder.pooling == OWN_POOLING
    features = found.encoder.features(batch)
    with torch.no_grad():
        wanted = found.encoder.model(found.encoder.input(torch.from_numpy(batch.pixels), "cpu"))
    assert features.shape == (4, 512)
    assert np.allclose(features, wanted.numpy(), atol=1e-5)


def test_one_channel_models_are_given_grey_and_three_channels_repeat_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 1, 8, 8)).astype(np.uint8)
    grey = ModelInput(8, 1, (0.0,), (1.0,))(torch.from_numpy(pixels), "cpu")
    assert torch.equal(grey, torch.from_numpy(pixels) / 255.0)
    colour = ModelInput(8, 3, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))(torch.from_numpy(pixels), "cpu")
    assert torch.allclose(colour[:, 2], (grey[:, 0] - 0.3) / 4.0)


def test_a_models_mean_pool_norm_is_applied_after_the_mean(batch: Batch) -> None:
    model: Any = timm.create_model(TINY, img_size=32, patch_size=8, num_classes=0, global_pool="avg", fc_norm=True)
    torch.nn.init.normal_(model.fc_norm.weight)
    shape = ModelInput(32, 3, (0.5,) * 3, (0.5,) * 3)
    features = ModelEncoder("m", shape, {}, lambda: model, "cpu").features(batch)
    with torch.no_grad():
        wanted = model.eval()(shape(torch.from_numpy(batch.pixels), "cpu"))
    assert np.allclose(features, wanted.numpy(), atol=1e-5)


def test_patch_tokens_come_on_their_grid(batch: Batch) -> None:
    encoder = one(TINY).encoder
    tokens = encoder.tokens(batch)
    assert tokens.shape == (4, 14, 14, 192)
    assert np.allclose(tokens.mean(axis=(1, 2)), encoder.features(batch), atol=1e-5)


def test_a_checkpoint_goes_through_the_teachers_adapters(batch: Batch, tmp_path: Path) -> None:
    model: Any = timm.create_model(TINY, num_classes=0)
    wrapped = {f"module.encoder.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": wrapped | {"module.decoder_pred.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    found = one(f"{tmp_path / 'other.pth'}@{TINY}.augreg_in21k")
    assert (found.key, found.title) == ("other", f"other ({TINY})")
    assert found.encoder.identity["teacher"]["input"]["mean"] == [0.5] * 3
    assert one(f"{tmp_path / 'other.pth'}@{TINY}").encoder.identity["teacher"]["input"]["mean"] == [0.485, 0.456, 0.406]
    x = ModelInput(224, 3, (0.5,) * 3, (0.5,) * 3)(torch.from_numpy(batch.pixels), "cpu")
    with torch.no_grad():
        wanted = model.eval().forward_features(x)[:, 1:].mean(dim=1)
    assert np.allclose(found.encoder.features(batch), wanted.numpy(), atol=1e-5)


def test_a_checkpoint_in_a_folder_with_an_at_sign_is_split_at_the_last_one(tmp_path: Path) -> None:
    folder = tmp_path / "me@lab"
    folder.mkdir()
    save_file(timm.create_model(TINY, num_classes=0).state_dict(), folder / "urfm.safetensors")
    found = one(f"{folder / 'urfm.safetensors'}@{TINY}")
    assert (found.key, found.title) == ("urfm", f"urfm ({TINY})")


def test_a_checkpoint_without_an_architecture_is_the_recipes_teacher(tmp_path: Path) -> None:
    model = timm.create_model(TINY, img_size=32, patch_size=8, num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    teacher = TeacherSettings(architecture=TINY, patch_size=8, image_size=32, mean=(0.1, 0.1, 0.1))
    found = one(str(tmp_path / "w.safetensors"), Recipe(cache=CacheSettings(teacher=teacher)))
    assert found.encoder.identity["teacher"]["input"]["mean"] == [0.1] * 3
    with pytest.raises(TeacherError, match="does not fit"):
        one(f"{tmp_path / 'w.safetensors'}@vit_small_patch16_224")


def test_the_same_weights_have_the_same_identity_wherever_they_lie(tmp_path: Path) -> None:
    model = timm.create_model(TINY, num_classes=0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file(model.state_dict(), tmp_path / name / "w.safetensors")
    texts = tuple(f"{tmp_path / name / 'w.safetensors'}@{TINY}" for name in ("a", "b"))
    first, second = named_encoders(texts, Recipe(), "cpu")
    assert first.encoder.identity == second.encoder.identity
    assert (first.key, second.key) == ("w", "w#2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("vit_tiny_patch16_225", "did you mean", id="misspelt"),
        pytest.param("nowhere/run", "no such run folder or checkpoint", id="nothing there"),
    ],
)
def test_what_is_no_encoder_is_refused_with_what_would_be(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        one(text)


def test_pretrained_weights_that_timm_cannot_get_are_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UsageError, match=r"timm can't load it \(no network\)\. Download the weights"):
        one(f"{TINY}.augreg_in21k")


def test_runs_and_timm_models_are_scored_beside_the_student(tmp_path: Path) -> None:
    import json

    write_labelled(tmp_path / "store.zarr", patients(16, ["cyst", "none"]), size=32)
    for name in ("one", "two"):
        export_run(tmp_path / name, tmp_path / "store.zarr")
    fast = (*FAST, "--set", "evaluate.baselines=[pixels]")
    task = ("--task", tmp_path / "store.zarr", "-o", tmp_path / "out")
    result = call(tmp_path / "one", *task, "--encoder", tmp_path / "two", "--encoder", "resnet10t", *fast)
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [s["encoder"] for s in scores["scores"]] == ["student", "pixels", "two", "resnet10t"]
    assert scores["encoders"]["two"]["title"] == "Run two"
    assert "input: 176 x 176, 3 channels" in scores["encoders"]["resnet10t"]["pooling"]
    assert str(tmp_path) not in json.dumps(scores)
    # Two runs of equal weights have equal features: they are computed once.
    assert scores["scores"][0]["probes"] == scores["scores"][2]["probes"]
    assert call(tmp_path / "one", *task, "--encoder", "nowhere", *fast).exit_code == 2


@pytest.mark.parametrize(
    ("objective", "title"), [("latents", "Student (this run)"), ("pixels", "Pixel teacher (this run)")]
)
def test_the_run_is_called_by_what_it_was_trained_for(tmp_path: Path, objective: str, title: str) -> None:
    write_labelled(tmp_path / "store.zarr", patients(4, ["a", "b"]), size=32)
    export_run(tmp_path / "run", tmp_path / "store.zarr")
    run = open_run(tmp_path / "run")
    run.config.extra["identity"]["train"]["objective"] = objective
    assert run.objective == objective
    assert Encoders(run, Recipe(), "cpu").title("student") == title
