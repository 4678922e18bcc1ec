"""A teacher whose input or grid is no whole square is refused with the reason, before anything is built."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from usjepa.cache.errors import RecipeError, TeacherError, UsageError
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.teacher.resolve import load_teacher, resolve_teacher

if TYPE_CHECKING:
    from pathlib import Path


def saved(folder: Path, **args: Any) -> str:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, **args)
    torch.save(model.state_dict(), folder / "w.pth")
    return str(folder / "w.pth")


@pytest.mark.parametrize("heads", [{}, {"num_heads": 2}], ids=["by name", "by shapes"])
@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"img_size": (64, 128)}, r"its 33 positions are of no square grid: it learnt from images that are not square"),
        ({"img_size": 64, "patch_size": (16, 8)}, r"its patches have 16 x 8 pixels\. Stored pixels are square"),
    ],
    ids=["images", "patches"],
)
def test_weights_that_learnt_from_what_is_not_square_are_refused(
    tmp_path: Path, args: dict[str, Any], told: str, heads: dict[str, Any]
) -> None:
    settings = TeacherSettings(architecture="test_vit", weights=saved(tmp_path, **args), args=heads)
    with pytest.raises(TeacherError, match=told):
        load_teacher(settings, 64, "cpu")


def test_a_distilled_models_positions_have_two_tokens_before_their_square(tmp_path: Path) -> None:
    torch.manual_seed(0)
    args: dict[str, Any] = {"embed_dim": 48, "depth": 1, "num_heads": 3, "img_size": 32}
    torch.save(timm.create_model("deit_tiny_distilled_patch16_224", **args).state_dict(), tmp_path / "w.pth")
    stated = {name: value for name, value in args.items() if name not in ("img_size", "depth")}
    settings = TeacherSettings(
        architecture="deit_tiny_distilled_patch16_224", weights=str(tmp_path / "w.pth"), depth=1, args=stated
    )
    assert load_teacher(settings, 32, "cpu").grid == (2, 2)


def long_grid(settings: TeacherSettings, pixel_size: int, device: torch.device) -> Any:
    """Return a teacher whose 16 tokens could be taken for a grid of 4 x 4."""
    made = SimpleNamespace(name=settings.name, grid=(8, 2), dim=3, device=device, compute="fp32", soft={}, warning=None)
    made.identity = {"compute": "fp32"}
    return _Called(made)


class _Called:
    def __init__(self, made: SimpleNamespace) -> None:
        self.__dict__.update(vars(made))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(pixels), 16, 3)


def test_a_grid_that_is_not_square_is_refused_though_its_tokens_could_be_taken_for_a_square_of_them() -> None:
    with pytest.raises(UsageError, match="form a grid of 8 x 2"):
        load_teacher(TeacherSettings(architecture=f"{__name__}:long_grid"), 32, "cpu")


def test_sizes_that_are_not_square_can_not_be_said(tmp_path: Path) -> None:
    for setting in ("image_size=[64, 32]", "patch_size=[16, 8]", "args={img_size: [64, 32]}"):
        with pytest.raises(RecipeError):
            load_recipe("demo", [f"cache.teacher.{setting}"])


def a_timm_folder(folder: Path, args: dict[str, Any], **cfg: Any) -> str:
    torch.manual_seed(0)
    folder.mkdir()
    model = timm.create_model("test_vit", num_classes=0, **args)
    save_file(model.state_dict(), folder / "model.safetensors")
    stated = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, **cfg}
    config = {"architecture": "test_vit", "pretrained_cfg": stated}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_model_that_is_shown_the_middle_of_an_image_is_refused_until_its_size_is_stated(tmp_path: Path) -> None:
    folder = a_timm_folder(tmp_path / "f", {"img_size": 64}, crop_pct=0.8)
    told = (
        r"resize an image to 80 pixels and take the 64 in the middle \(crop_pct = 0\.8\).*cache\.teacher\.image_size=64"
    )
    with pytest.raises(UsageError, match=told):
        resolve_teacher(folder, None)
    whole = TeacherSettings(image_size=64).with_stated(frozenset({"image_size"}))
    assert load_teacher(resolve_teacher(folder, whole), 32, "cpu").identity["input"]["size"] == 64
    assert resolve_teacher(a_timm_folder(tmp_path / "g", {"img_size": 64}, crop_pct=1.0), None).image_size == 64


@pytest.mark.parametrize(
    ("preprocessor", "told"),
    [
        ({"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}}, "resize an image to 80 pixels"),
        ({"size": 80, "crop_size": 64}, "resize an image to 80 pixels"),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 32}}, "crop_size: 64 x 32"),
        ({"size": {"height": 64, "width": 32}, "do_center_crop": False}, "size: 64 x 32"),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}, None),
    ],
)
def test_so_is_one_whose_preprocessor_of_transformers_crops(
    tmp_path: Path, preprocessor: dict[str, Any], told: str | None
) -> None:
    config = {"model_type": "vit", "num_attention_heads": 3}
    base = {"do_center_crop": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(base | preprocessor))
    (tmp_path / "model.safetensors").write_bytes(b"")
    if told is None:
        assert resolve_teacher(str(tmp_path), None).image_size == 64
        return
    with pytest.raises(UsageError, match=told):
        resolve_teacher(str(tmp_path), None)


def test_a_timm_folder_of_one_channel_is_a_teacher_of_one_channel(tmp_path: Path) -> None:
    stated = {"input_size": [1, 64, 64], "mean": [0.2], "std": [0.1]}
    folder = a_timm_folder(tmp_path / "f", {"img_size": 64, "in_chans": 1}, **stated)
    teacher = load_teacher(resolve_teacher(folder, None), 64, "cpu")
    assert teacher.identity["model_args"]["in_chans"] == 1
    assert teacher(torch.zeros(1, 1, 64, 64, dtype=torch.uint8)).shape == (1, 16, 64)


def test_a_model_of_four_channels_is_refused() -> None:
    settings = TeacherSettings(architecture="test_vit", args={"in_chans": 4})
    with pytest.raises(UsageError, match=r"takes 4 channels, and a frame has 1 \(grey\) or 3"):
        load_teacher(settings, 64, "cpu")
