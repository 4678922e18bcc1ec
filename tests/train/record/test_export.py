"""The exported encoder is an ordinary timm model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from usjepa.cache.errors import TrainingError, UsageError
from usjepa.train.record.export import EncoderConfig, export_encoder, load_encoder

if TYPE_CHECKING:
    from pathlib import Path

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 3, "in_chans": 3}


def export(folder: Path) -> Any:
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARGS).eval()
    export_encoder(model, EncoderConfig("vit_tiny_patch16_224", ARGS, (0.5,) * 3, (0.25,) * 3, {}), folder)
    return model


def test_plain_timm_loads_it_strictly_and_gives_the_same_features(tmp_path: Path) -> None:
    model = export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    plain: Any = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    plain.eval()
    plain.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=True)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain.forward_features(images), model.forward_features(images), rtol=0, atol=0)


def test_timms_own_checkpoint_argument_loads_it(tmp_path: Path) -> None:
    model = export(tmp_path)
    loaded = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, checkpoint_path=str(tmp_path / "encoder.safetensors"), **ARGS
    )
    assert torch.equal(loaded.state_dict()["pos_embed"], model.state_dict()["pos_embed"])


def test_a_folder_without_a_finished_encoder_says_to_finish_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Let usjepa-train finish"):
        load_encoder(tmp_path)
    export(tmp_path)
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(UsageError, match="Let usjepa-train finish"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["encoder.safetensors", "config.json"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    export(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match=name):
        load_encoder(tmp_path)
