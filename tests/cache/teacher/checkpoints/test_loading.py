"""Other people's checkpoints load whole or not at all, and no file can run code."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.teacher.checkpoints.loading import load_into
from usjepa.cache.teacher.checkpoints.weights import read_weights, weights_hash

if TYPE_CHECKING:
    from pathlib import Path


def vit(size: int = 32) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: torch.nn.Module = timm.create_model("vit_tiny_patch16_224", img_size=size, num_classes=0)
    return model


def mae(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the encoder's weights with an MAE decoder beside them."""
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_embed.weight": torch.ones(8, 8),
        "decoder_pred.bias": torch.ones(3),
    }
    return {**weights, **decoder}


def prefixed(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


WEIGHTS = vit().state_dict()
LAYOUTS: dict[str, Any] = {
    "flat": WEIGHTS,
    "urfm": {
        "ema_state_dict": prefixed(mae(WEIGHTS), "module."),
        "state_dict": prefixed({k: v + 1 for k, v in WEIGHTS.items()}, "module."),
        "model": "mae_vit_base_patch16_dec768d8b",
        "epoch": 1199,
    },
    "usf-mae": mae(WEIGHTS),
    "tinyusfm": prefixed(WEIGHTS, "module.model."),
    "a wrapper of any name": {
        "state_dict": {**prefixed(WEIGHTS, "net.image_tower."), "net.head.weight": torch.ones(2)}
    },
    "nested-model": {"model": prefixed(WEIGHTS, "encoder."), "epoch": 3},
    "classifier": {"state_dict": {**prefixed(WEIGHTS, "backbone."), "head.weight": torch.ones(2, 192)}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_known_layout_gives_the_encoders_own_weights(tmp_path: Path, layout: str) -> None:
    torch.save(LAYOUTS[layout], tmp_path / "c.pth")
    model = vit()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    report = load_into(model, read_weights(tmp_path / "c.pth").tensors, "c.pth")
    assert set(report.loaded) == set(WEIGHTS)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, WEIGHTS[name], rtol=0, atol=0)


def test_dropped_keys_are_counted_with_their_reason(tmp_path: Path) -> None:
    torch.save(LAYOUTS["urfm"], tmp_path / "c.pth")
    report = load_into(vit(), read_weights(tmp_path / "c.pth").tensors, "c.pth")
    assert sorted(report.dropped) == ["decoder_embed.weight", "decoder_pred.bias", "mask_token"]
    assert "dropped 2 of an MAE decoder, 1 of training under a mask" in report.summary()


def test_safetensors_and_torch_files_of_the_same_weights_have_the_same_hash(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "c.safetensors")
    torch.save(WEIGHTS, tmp_path / "c.pth")
    assert read_weights(tmp_path / "c.safetensors").hash == read_weights(tmp_path / "c.pth").hash


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_any_change_in_the_weights_changes_the_hash(change: str) -> None:
    weights = {"a": torch.arange(6.0), "b": torch.ones(2)}
    changed = dict(weights)
    if change == "value":
        changed["a"] = weights["a"].clone()
        changed["a"][3] += 1e-6
    elif change == "name":
        changed["c"] = changed.pop("b")
    elif change == "dtype":
        changed["b"] = weights["b"].view(torch.int32)
    else:
        changed["a"] = weights["a"].reshape(2, 3)
    assert weights_hash(changed) != weights_hash(weights)


def test_missing_and_left_over_keys_are_listed(tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in WEIGHTS.items() if not name.startswith("blocks.3.mlp")}
    save_file({**weights, "extra.weight": torch.ones(1)}, tmp_path / "c.safetensors")
    with pytest.raises(TeacherError, match=r"(?s)4 missing: blocks\.3\.mlp.*1 unexpected: extra\.weight"):
        load_into(vit(), read_weights(tmp_path / "c.safetensors").tensors, "c.safetensors")


def test_weights_of_another_width_are_refused_with_both_shapes() -> None:
    other = timm.create_model("vit_small_patch16_224", img_size=32, num_classes=0).state_dict()
    with pytest.raises(TeacherError, match=r"cls_token: \[1, 1, 384\] in the file, \[1, 1, 192\] in the model"):
        load_into(vit(), other, "small.pth")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(dtype: torch.dtype) -> None:
    weights = vit().state_dict()
    weights["blocks.0.mlp.fc1.weight"] = weights["blocks.0.mlp.fc1.weight"].mul(100).to(dtype)
    with pytest.raises(TeacherError, match=r"without their scales.*\n  1 of another type: blocks\.0\.mlp\.fc1\.weight"):
        load_into(vit(), weights, "c.pth")


def test_positions_of_another_grid_are_resampled_and_said() -> None:
    report = load_into(vit(64), dict(WEIGHTS), "c.pth")
    assert report.resampled == ("pos_embed",)
    assert "resampled pos_embed" in report.summary()


class _Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch hostile-was-here",)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Hostile()}, tmp_path / "c.pth")
    with pytest.raises(TeacherError, match=r"never loaded because they could run code: posix\.system"):
        read_weights(tmp_path / "c.pth")
    assert not (tmp_path / "hostile-was-here").exists()


@pytest.mark.parametrize("name", ["c.pth", "c.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TeacherError, match=name):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("begins", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html>Virus scan", "a web page.*Download the file itself"),
    ],
)
def test_what_a_download_left_in_the_place_of_weights_is_named(tmp_path: Path, begins: bytes, told: str) -> None:
    for name in ("c.pth", "c.safetensors"):
        (tmp_path / name).write_bytes(begins)
        with pytest.raises(TeacherError, match=told):
            read_weights(tmp_path / name)


def test_an_averages_counter_is_dropped_and_said() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(vit())
    report = load_into(vit(), averaged.state_dict(), "c.pth")
    assert report.dropped == {"outside module. n_averaged": "a counter"}
    assert len(report.loaded) == len(WEIGHTS)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module._orig_mod.", "_forward_module.model."])
def test_heads_behind_any_wrapper_are_dropped(wrapper: str) -> None:
    held = {f"{wrapper}encoder.{name}": tensor for name, tensor in WEIGHTS.items()}
    report = load_into(vit(), held | {f"{wrapper}head.weight": torch.ones(2, 192)}, "c.pth")
    assert list(report.dropped.values()) == ["of a head"]


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "c.safetensors")
    with pytest.raises(TeacherError, match="tensor w holds values that are not finite"):
        read_weights(tmp_path / "c.safetensors")


def test_a_missing_file_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such checkpoint"):
        read_weights(tmp_path / "none.pth")
