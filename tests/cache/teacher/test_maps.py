"""Models of any kind that give maps of features are teachers at their own stride, or are refused with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch

from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.resolve import load_pass
from usjepa.cache.teacher.vit import load_vit

if TYPE_CHECKING:
    from pathlib import Path

# name: (edge of the input, stage, strides of the map, more arguments)
MODELS: dict[str, tuple[int, int | None, int, dict[str, Any]]] = {
    "resnet18": (64, None, 32, {}),
    "resnet26": (64, 4, 16, {}),
    "convnext_atto": (64, 3, 16, {}),
    "swin_tiny_patch4_window7_224": (64, 3, 16, {"window_size": 2}),
    "swinv2_cr_tiny_224": (64, None, 32, {"window_size": 2}),
    "hiera_tiny_224": (64, 3, 16, {}),
    "mvitv2_tiny": (64, 3, 16, {}),
    "efficientnet_b0": (64, 4, 16, {}),
    "samvit_base_patch16": (64, 1, 16, {"embed_dim": 48, "num_heads": 6, "window_size": 2}),
}


def teacher(settings: TeacherSettings, size: int) -> Any:
    return load_vit(settings, size, torch.device("cpu"))


def compared(name: str, _: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of the teacher, and the places of timm's own map row by row, [2, T, D]."""
    size, stage, stride, args = MODELS[name]
    made = teacher(TeacherSettings(architecture=name, block=stage, norm=False, args=args), size)
    pixels = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    model: Any = made.model
    with torch.no_grad():
        maps = model.forward_intermediates(made.input(pixels, "cpu"), intermediates_only=True)
    wanted = maps[(stage or len(maps)) - 1]
    assert made.grid == (size // stride, size // stride)
    assert wanted.shape == (2, made.dim, *made.grid)
    return made(pixels), wanted.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("name", MODELS)
def test_a_map_of_features_gives_tokens_row_by_row_at_its_own_stride(name: str, tmp_path: Path) -> None:
    tokens, wanted = compared(name, tmp_path)
    assert tokens.shape == wanted.shape
    assert torch.allclose(tokens, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "hiera_tiny_224", "mvitv2_tiny"])
def test_stages_of_one_pass_have_the_tokens_grid_and_width_that_each_has_alone(name: str) -> None:
    settings = TeacherSettings(architecture=name, blocks=(3, 1, 2), norm=False, name="maps")
    run = load_pass(settings, 64, "cpu")
    pixels = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    for one, stage, tokens in zip(run.teachers, (1, 2, 3), run(pixels), strict=True):
        alone = teacher(settings.model_copy(update={"blocks": None, "block": stage}), 64)
        assert (one.name, one.grid, one.dim) == (f"maps.{stage}", alone.grid, alone.dim)
        assert one.identity == alone.identity
        assert torch.equal(tokens, alone(pixels))
        assert torch.equal(one(pixels), tokens)
    assert [found.shape for found in run(pixels, [1])] == [run(pixels)[1].shape]
    assert run(pixels, []) == []


def test_the_same_weights_in_a_file_are_loaded_strictly(tmp_path: Any) -> None:
    torch.manual_seed(3)
    torch.save({"state_dict": timm.create_model("resnet18").state_dict()}, tmp_path / "r.pth")
    made = teacher(TeacherSettings(architecture="resnet18", weights=str(tmp_path / "r.pth")), 64)
    assert made.identity["weights"] != teacher(TeacherSettings(architecture="resnet18"), 64).identity["weights"]


@pytest.mark.parametrize(
    ("settings", "size", "told"),
    [
        ({"architecture": "resnet18", "block": 9}, 64, "resnet18 has 5 stages"),
        ({"architecture": "hiera_tiny_224"}, 224, r"can't normalise its maps.*--set cache\.teacher\.norm=false"),
        ({"architecture": "mixer_s16_224"}, 230, "map of 14 x 14, which does not divide it evenly"),
        ({"architecture": "test_vit"}, 90, "patches of 16 pixels, and the rest would be cut off"),
    ],
)
def test_what_can_be_no_teacher_is_refused_with_the_reason(settings: dict[str, Any], size: int, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        teacher(TeacherSettings.model_validate(settings), size)


def test_a_one_channel_teacher_takes_grey_and_colour(tmp_path: Any) -> None:
    args: dict[str, Any] = {"in_chans": 1}
    made = teacher(TeacherSettings(architecture="test_vit", args=args, mean=(0.2,), std=(0.1,)), 32)
    grey = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    assert made.input(grey, "cpu").shape == (2, 1, 32, 32)
    assert torch.allclose(made(grey), made(grey.expand(-1, 3, -1, -1)), atol=1e-4)
    with pytest.raises(UsageError, match="3 values, and the model takes 1 channel"):
        teacher(TeacherSettings(architecture="test_vit", args=args), 32)
