"""A teacher gives patch tokens only, in row-major order, and its identity names all that changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.computing import compute_latents
from usjepa.cache.teacher.layers import square_grid
from usjepa.cache.teacher.resolve import load_described, load_pass, resolve_teacher
from usjepa.cache.teacher.vit import ViT, load_vit
from usjepa.train.record.export import EncoderConfig, export_encoder, load_encoder

if TYPE_CHECKING:
    from pathlib import Path

TINY = TeacherSettings(architecture="vit_tiny_patch16_224")


def vit(settings: TeacherSettings, size: int) -> ViT:
    made = load_vit(settings, size, torch.device("cpu"))
    assert isinstance(made, ViT)
    return made


def pixels(count: int = 3, size: int = 32, channels: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8))


@pytest.mark.parametrize(
    ("architecture", "size", "prefix"),
    [
        ("vit_tiny_patch16_224", 32, 1),
        ("vit_small_patch16_dinov3", 32, 5),
        ("vit_base_patch16_gap_224", 32, 0),
        ("beit_base_patch16_224", 32, 1),
    ],
)
def test_only_patch_tokens_come_out_whatever_the_prefix_tokens(architecture: str, size: int, prefix: int) -> None:
    if architecture not in timm.list_models():
        pytest.skip(f"this timm has no {architecture}")
    teacher = vit(TeacherSettings(architecture=architecture), size)
    latents = teacher(pixels(2, size))
    assert teacher.model.num_prefix_tokens == prefix
    assert latents.shape == (2, 4, teacher.dim)
    assert latents.dtype == torch.float32
    model: Any = teacher.model
    with torch.no_grad():
        whole = model.forward_features(teacher.input(pixels(2, size), "cpu"))
    torch.testing.assert_close(latents, whole[:, prefix:])


def test_tokens_are_row_major() -> None:
    teacher = vit(TINY, 64)
    a, b = pixels(1, 64), pixels(1, 64)
    b[:, :, 16:32, 48:64] = 0  # patch (1, 3) of a 4 x 4 grid
    embed: Any = teacher.model.patch_embed
    changed = (embed(teacher.input(a, "cpu")) != embed(teacher.input(b, "cpu"))).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [1 * 4 + 3]


def test_an_earlier_block_without_norm_is_what_the_block_gave() -> None:
    teacher = vit(TINY.model_copy(update={"block": 3, "norm": False}), 32)
    seen: list[torch.Tensor] = []
    blocks: Any = teacher.model.blocks
    hook = blocks[2].register_forward_hook(lambda _m, _i, out: seen.append(out))
    latents = teacher(pixels())
    hook.remove()
    torch.testing.assert_close(latents, seen[0][:, 1:])


def test_the_batch_size_changes_answers_by_rounding_only() -> None:
    teacher = vit(TINY, 32)
    images, rows = pixels(9).numpy(), np.arange(9)
    one, many = (compute_latents(teacher, images, rows, size) for size in (1, 9))
    assert np.abs(one - many).max() < 1e-4 * np.abs(many).max()


def test_grey_pixels_give_what_the_same_pixels_in_three_channels_give() -> None:
    teacher = vit(TINY, 32)
    grey = pixels()
    torch.testing.assert_close(teacher(grey), teacher(grey.repeat(1, 3, 1, 1)))


def test_a_teacher_of_another_input_size_sees_resized_pixels() -> None:
    teacher = vit(TINY.model_copy(update={"image_size": 64}), 32)
    assert teacher.grid == (4, 4)
    assert teacher.input(pixels(), "cpu").shape == (3, 3, 64, 64)
    assert teacher.identity["input"]["resize"] == "bicubic, antialiased"


def test_random_weights_are_said_loudly_and_depend_on_the_seed_alone() -> None:
    torch.manual_seed(123)
    first = vit(TINY, 32)
    torch.manual_seed(321)
    again, other = vit(TINY, 32), vit(TINY.model_copy(update={"seed": 1}), 32)
    assert first.warning is not None
    assert "RANDOM" in first.warning
    assert first.identity == again.identity
    assert first.identity["weights"] != other.identity["weights"]


def test_the_same_weights_in_another_file_are_the_same_teacher(tmp_path: Path) -> None:
    weights = vit(TINY, 32).model.state_dict()
    save_file(weights, tmp_path / "a.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "b.pth")
    loaded = [vit(TINY.model_copy(update={"weights": str(tmp_path / n)}), 32) for n in ("a.safetensors", "b.pth")]
    assert loaded[0].identity == loaded[1].identity
    torch.testing.assert_close(loaded[0](pixels()), vit(TINY, 32)(pixels()), rtol=0, atol=0)


def test_one_of_our_own_runs_is_a_teacher_like_any_other(tmp_path: Path) -> None:
    args: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2, "in_chans": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **args).eval()
    exported = EncoderConfig("vit_tiny_patch16_224", args, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), {"step": 3})
    export_encoder(model, exported, tmp_path)
    settings = resolve_teacher(str(tmp_path), TINY)
    teacher = vit(settings, 32)
    assert teacher.grid == (4, 4)
    assert teacher.identity["input"]["mean"] == [0.4, 0.4, 0.4]
    assert resolve_teacher(str(tmp_path / "model.safetensors"), TINY) == settings
    stated = TINY.model_copy(update={"mean": (0.1,) * 3}).with_stated(frozenset({"mean", "weights"}))
    set_by_user = resolve_teacher(str(tmp_path), stated)
    assert (set_by_user.mean, set_by_user.std, set_by_user.weights) == ((0.1,) * 3, (0.2,) * 3, str(tmp_path))
    again: Any
    again, config = load_encoder(tmp_path)
    assert config.extra == {"step": 3}
    with torch.no_grad():
        torch.testing.assert_close(teacher(pixels()), again.forward_features(teacher.input(pixels(), "cpu"))[:, 1:])


def test_a_latent_that_is_not_finite_ends_the_build_naming_the_row() -> None:
    teacher = vit(TINY, 32)
    model: Any = teacher.model
    with torch.no_grad():
        model.norm.bias[0] = float("inf")
    with pytest.raises(TeacherError, match=r"row 40: .*not finite"):
        compute_latents(teacher, pixels().numpy(), np.arange(40, 43), 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "vit_tinny_patch16_224"}, "did you mean vit_tiny_patch16_224"),
        ({"architecture": "resnet18", "block": 6}, "has 5 stages"),
        ({"block": 13}, "has 12 blocks"),
        ({"compute": "fp16"}, "needs a GPU"),
        ({"weights": "/nowhere/urfm.pth"}, "no such checkpoint file"),
    ],
)
def test_wrong_use_is_said(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        vit(TINY.model_copy(update=settings), 32)


def test_what_teacher_names_is_resolved_or_refused(tmp_path: Path) -> None:
    assert resolve_teacher("random", TINY.model_copy(update={"weights": "x"})).weights is None
    with pytest.raises(UsageError, match=r"names an architecture, not weights.*--teacher random"):
        resolve_teacher("vit_small_patch16_224", TINY)
    (tmp_path / "w.pth").write_bytes(b"")
    assert resolve_teacher(str(tmp_path / "w.pth"), None).weights == str(tmp_path / "w.pth")
    with pytest.raises(UsageError, match="neither a finished run nor a folder of another library"):
        resolve_teacher(str(tmp_path), TINY)
    with pytest.raises(UsageError, match=r"no such file or folder\. Is it the preset urfm-b"):
        resolve_teacher("urfm-base", TINY)


def test_latents_that_form_no_square_grid_are_refused_naming_the_layer() -> None:
    assert square_grid(196, "x") == (14, 14)
    with pytest.raises(UsageError, match=r"s\.zarr, latents/t: 15 patch tokens per image form no square grid"):
        square_grid(15, "s.zarr, latents/t")


def test_pure_half_precision_is_near_and_another_teacher() -> None:
    whole, half = vit(TINY, 32), vit(TINY.model_copy(update={"compute": "bf16-pure"}), 32)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    latents = half(pixels())
    assert latents.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(latents, whole(pixels()), dim=-1).min() > 0.99
    assert half.identity["compute"] == "bf16-pure"
    assert half.identity["weights"] == whole.identity["weights"]
    with pytest.raises(UsageError, match="fp16-pure needs a GPU"):
        vit(TINY.model_copy(update={"compute": "fp16-pure"}), 32)


@pytest.mark.slow
def test_compiled_blocks_of_one_pass_give_the_eager_ones_tokens_and_say_of_which_pass_they_are() -> None:
    settings = TINY.model_copy(update={"blocks": (1, 2), "depth": 2, "name": "two"})
    eager, compiled = (load_pass(settings.model_copy(update={"compile": c}), 32, "cpu") for c in (False, True))
    for one, other, place in zip(eager(pixels()), compiled(pixels()), (0, 1), strict=True):
        assert (one - other).abs().max() < 1e-4
        assert torch.equal(compiled.teachers[place](pixels()), other)
    assert compiled.teachers[0].identity == {**eager.teachers[0].identity, "compile": True, "pass": [1, 2]}
    again = load_described(compiled.teachers[1].identity, settings, None, 32, "cpu")
    assert again.identity == compiled.teachers[1].identity
    assert again.name == "two.2"


@pytest.mark.slow
def test_a_compiled_teacher_gives_the_eager_ones_tokens_and_is_known_as_compiled() -> None:
    eager, compiled = vit(TINY, 32), vit(TINY.model_copy(update={"compile": True}), 32)
    assert (compiled(pixels()) - eager(pixels())).abs().max() < 1e-4
    assert "compile" not in eager.identity
    assert compiled.identity == {**eager.identity, "compile": True}
