"""The exported encoder is an ordinary timm model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.teacher.exported import weights_file
from usjepa.cache.teacher.resolve import load_teacher, resolve_teacher
from usjepa.train.record.export import EncoderConfig, export_encoder, load_encoder, read_config

if TYPE_CHECKING:
    from pathlib import Path

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 3, "in_chans": 3}


def export(folder: Path) -> Any:
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARGS).eval()
    export_encoder(model, EncoderConfig("vit_tiny_patch16_224", ARGS, (0.5,) * 3, (0.25,) * 3, {}), folder)
    (folder / "recipe.json").write_text("{}")  # as a run leaves it
    return model


def as_an_earlier_version(folder: Path) -> None:
    """Let the export be one of a version that named neither pooling nor hashes."""
    config = json.loads((folder / "config.json").read_text())
    del config["files"], config["digest"]
    (folder / "config.json").write_text(json.dumps(config | {"model_args": ARGS}))


def test_plain_timm_loads_it_strictly_and_gives_the_same_features(tmp_path: Path) -> None:
    model = export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    plain: Any = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    plain.eval()
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain.forward_features(images), model.forward_features(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param("vit_tiny_patch16_224", id="class token"),
        pytest.param("vit_small_patch14_reg4_dinov2", id="registers"),
        pytest.param("test_vit2", id="mean, then a norm"),
    ],
)
def test_a_model_that_timm_loads_from_the_folder_gives_the_mean_of_its_patch_tokens(
    tmp_path: Path, architecture: str
) -> None:
    model: Any = timm.create_model(architecture, num_classes=0, **ARGS).eval()
    export_encoder(model, EncoderConfig(architecture, ARGS, (0.5,) * 3, (0.25,) * 3, {}), tmp_path)
    loaded: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens_BTD = model.forward_features(images)[:, model.num_prefix_tokens :]
        torch.testing.assert_close(loaded(images), model.fc_norm(tokens_BTD.mean(1)), rtol=0, atol=1e-6)


def test_a_model_without_a_trained_class_token_keeps_its_own_pooling(tmp_path: Path) -> None:
    args: dict[str, Any] = {"img_size": 32, "patch_size": 8, "in_chans": 3}
    model: Any = timm.create_model("test_vit3", num_classes=0, **args).eval()  # pools by attention
    export_encoder(model, EncoderConfig("test_vit3", args, (0.5,) * 3, (0.25,) * 3, {}), tmp_path)
    assert read_config(tmp_path).model_args == args
    assert load_encoder(tmp_path)[0].state_dict().keys() == model.state_dict().keys()


def test_an_encoder_exported_before_its_pooling_was_named_still_loads(tmp_path: Path) -> None:
    model = export(tmp_path)
    as_an_earlier_version(tmp_path)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loaded: Any = load_encoder(tmp_path)[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded.forward_features(images), model.forward_features(images), rtol=0, atol=0)


def test_the_pooling_of_the_export_is_no_part_of_a_teachers_identity(tmp_path: Path) -> None:
    export(tmp_path)
    settings = resolve_teacher(str(tmp_path), None)
    as_an_earlier_version(tmp_path)
    before = resolve_teacher(str(tmp_path), None)
    assert settings == before
    assert load_teacher(settings, 32, "cpu").identity == load_teacher(before, 32, "cpu").identity


def test_timms_own_checkpoint_argument_loads_it(tmp_path: Path) -> None:
    model = export(tmp_path)
    loaded = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, checkpoint_path=str(tmp_path / "model.safetensors"), **ARGS
    )
    assert torch.equal(loaded.state_dict()["pos_embed"], model.state_dict()["pos_embed"])


def test_a_folder_without_a_finished_encoder_says_to_finish_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Let usjepa-train finish"):
        load_encoder(tmp_path)
    export(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="Let usjepa-train finish"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    export(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamageError, match=name):
        load_encoder(tmp_path)
    with pytest.raises(DamageError, match=name):
        load_teacher(resolve_teacher(str(tmp_path), None), 32, "cpu")


def test_a_flipped_bit_anywhere_in_an_export_is_refused_by_name_also_as_a_teacher(tmp_path: Path) -> None:
    export(tmp_path)
    rng = np.random.default_rng(0)
    for name, tries in (("model.safetensors", 60), ("config.json", 200)):
        path = tmp_path / name
        whole = path.read_bytes()
        places = [*range(16), *rng.integers(0, len(whole), tries).tolist(), len(whole) - 1]
        for at in places:
            data = bytearray(whole)
            data[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
            if name == "config.json" and parsed(data) == parsed(whole):
                continue  # a digit of an exponent's e, say: the same values
            for read in (lambda: load_encoder(tmp_path), lambda: weights_file(tmp_path)):
                with pytest.raises(DamageError, match=name):
                    read()
            for text in (tmp_path, tmp_path / "model.safetensors"):
                with pytest.raises(DamageError, match=name):
                    weights_file(text)
        path.write_bytes(whole)
    assert load_encoder(tmp_path)


def parsed(data: bytes | bytearray) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def test_an_export_of_an_earlier_version_is_read_and_the_lack_of_hashes_is_said(
    tmp_path: Path, said: list[str]
) -> None:
    export(tmp_path)
    as_an_earlier_version(tmp_path)
    load_encoder(tmp_path)
    load_teacher(resolve_teacher(str(tmp_path), None), 32, "cpu")
    assert len([line for line in said if "written by an earlier version, without hashes" in line]) == 1
