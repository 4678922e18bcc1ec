"""Folders that transformers writes give the tokens of transformers' own classes.

They need transformers, whose import alone takes seconds: `make test-slow`.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from usjepa.cache.errors import TeacherError
from usjepa.cache.teacher.names.transformers_config import _KINDS
from usjepa.cache.teacher.resolve import load_teacher, resolve_teacher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

SMALL = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 96, "image_size": 64,
    "patch_size": 16, "initializer_range": 0.5,
}  # fmt: skip
MEAN, STD = [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    # name: (class, more of its configuration, prefix tokens)
    "ViT": ("ViT", {}, 1),
    "ViT-MAE": ("ViTMAE", {"mask_ratio": 0.0}, 1),
    "I-JEPA": ("IJepa", {}, 0),
    "DINOv2": ("Dinov2", {"mlp_ratio": 2}, 1),
    "DINOv2, SwiGLU": ("Dinov2", {"use_swiglu_ffn": True}, 1),
    "DINOv2, registers": ("Dinov2WithRegisters", {"num_register_tokens": 4}, 5),
    "DINOv3": ("DINOv3ViT", {"num_register_tokens": 4, "num_attention_heads": 3}, 5),
    "DINOv3, gated": ("DINOv3ViT", {"use_gated_mlp": True, "num_attention_heads": 3, "hidden_act": "silu"}, 1),
    "CLIP": ("CLIPVision", {"initializer_factor": 5.0}, 1),
    "SigLIP": ("SiglipVision", {}, 0),
    "BEiT": ("Beit", {"use_relative_position_bias": True}, 1),
    "BEiT, shared": ("Beit", {"use_shared_relative_position_bias": True}, 1),
    "ViT-MSN": ("ViTMSN", {}, 1),
    "DeiT": ("DeiT", {}, 2),
    "BEiT, absolute": ("Beit", {"use_absolute_position_embeddings": True, "use_mean_pooling": False}, 1),
}


def reference(case: str) -> tuple[Any, int]:
    """Return transformers' model with random weights that are all of order 1, and its prefix tokens."""
    transformers = pytest.importorskip("transformers")
    kind, more, prefix = CASES[case]
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**(SMALL | more))).eval()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 and "token" not in name else 0.3
            drawn = scale * torch.randn(parameter.shape, generator=rng)
            parameter.copy_(drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model, prefix


def compared(case: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of the teacher, and of transformers' own class, from a folder that transformers wrote."""
    model, prefix = reference(case)
    model.save_pretrained(folder)
    preprocessor = {"image_mean": MEAN, "image_std": STD, "size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    teacher = load_teacher(resolve_teacher(str(folder), None), 64, "cpu")
    pixels = torch.randint(0, 256, (2, 1, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given = torch.cat([(pixels / 255.0 - m) / s for m, s in zip(MEAN, STD, strict=True)], dim=1)
    with torch.no_grad():
        if case == "ViT-MAE":  # its encoder shuffles patches, even where it hides none
            wanted = model(given, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
        else:
            wanted = model(given).last_hidden_state
        wanted = model.post_layernorm(wanted) if case == "CLIP" else wanted
    return teacher(pixels), wanted[:, prefix:]


@pytest.mark.parametrize("case", CASES)
def test_a_folder_gives_the_tokens_of_transformers_own_class(tmp_path: Path, case: str) -> None:
    found, wanted = compared(case, tmp_path)
    assert wanted.std() > 0.1
    assert (found - wanted).abs().max() < 1e-4


def _said(folder: Path, **more: Any) -> None:
    preprocessor = {"image_mean": MEAN, "image_std": STD, "size": {"height": 64, "width": 64}, **more}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def _given(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels, and the normalised images of them."""
    pixels = torch.randint(0, 256, (2, 1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return pixels, torch.cat([(pixels / 255.0 - m) / s for m, s in zip(MEAN, STD, strict=True)], dim=1)


def compared_sam(whole: bool, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of the teacher, and the places of the map of SAM's vision encoder, alone or of the whole model."""
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "image_size": 80, "window_size": 3,
        "global_attn_indexes": [1], "output_channels": 32, "mlp_dim": 192, "num_pos_feats": 16,
    }  # fmt: skip
    small = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    prompt = {"hidden_size": 32, "image_size": 80}
    torch.manual_seed(0)
    if whole:
        config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=small)
        model = transformers.SamModel(config).eval()
    else:
        model = transformers.SamVisionModel(transformers.SamVisionConfig(**vision)).eval()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.vision_encoder.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng) * (0.3 if parameter.ndim < 2 else 0.15)
            parameter.copy_(noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    model.save_pretrained(folder)
    _said(folder, size={"longest_edge": 80}, pad_size={"height": 80, "width": 80})
    pixels, given = _given(80)
    teacher = load_teacher(resolve_teacher(str(folder), None), 80, "cpu")
    with torch.no_grad():
        return teacher(pixels), model.vision_encoder(given).last_hidden_state.flatten(2).transpose(1, 2)


def compared_masked_beit(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of the teacher, and those of a BEiT as it learns, whose final norm lies beside its model."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(**SMALL, use_relative_position_bias=True, use_mask_token=True, vocab_size=8)
    torch.manual_seed(0)
    model = transformers.BeitForMaskedImageModeling(config).eval()
    with torch.no_grad():
        model.layernorm.weight.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    _said(folder)
    pixels, given = _given(64)
    with torch.no_grad():
        wanted = model.layernorm(model.beit(given).last_hidden_state)[:, 1:]
    return load_teacher(resolve_teacher(str(folder), None), 64, "cpu")(pixels), wanted


MORE: dict[str, Callable[[Path], tuple[torch.Tensor, torch.Tensor]]] = {
    "SAM": partial(compared_sam, True),
    "SAM, vision alone": partial(compared_sam, False),
    "BEiT, masked": compared_masked_beit,
}


@pytest.mark.parametrize("case", MORE)
def test_so_does_a_tower_within_a_larger_model(tmp_path: Path, case: str) -> None:
    found, wanted = MORE[case](tmp_path)
    assert wanted.std() > 0.1
    assert (found - wanted).abs().max() < 1e-4


def test_what_a_configuration_leaves_out_is_what_transformers_class_has() -> None:
    transformers = pytest.importorskip("transformers")
    for kind, known in _KINDS.items():
        config = transformers.AutoConfig.for_model(kind)
        config = getattr(config, "vision_config", config)
        wanted = (config.num_attention_heads, config.layer_norm_eps, config.hidden_act)
        assert (known.heads, known.eps, known.activation) == wanted, kind


def test_keys_with_a_bias_under_rotary_positions_are_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**(SMALL | {"num_attention_heads": 3, "key_bias": True}))
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.1 if name.endswith("k_proj.bias") else 0.0)
    model.save_pretrained(tmp_path)
    _said(tmp_path)
    with pytest.raises(TeacherError, match="its keys have a bias"):
        load_teacher(resolve_teacher(str(tmp_path), None), 64, "cpu")


@pytest.mark.parametrize("case", ["DINOv2", "DINOv2, registers", "ViT"])
def test_positions_of_another_grid_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    model, prefix = reference(case)
    model.save_pretrained(tmp_path)
    preprocessor = {"image_mean": MEAN, "image_std": STD, "size": {"height": 96, "width": 96}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    teacher = load_teacher(resolve_teacher(str(tmp_path), None), 96, "cpu")
    pixels = torch.randint(0, 256, (2, 1, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given = torch.cat([(pixels / 255.0 - m) / s for m, s in zip(MEAN, STD, strict=True)], dim=1)
    with torch.no_grad():
        wanted = model(given, interpolate_pos_encoding=True) if case == "ViT" else model(given)
    found, wanted = teacher(pixels), wanted.last_hidden_state[:, prefix:]
    assert torch.nn.functional.cosine_similarity(found, wanted, dim=-1).min() > 0.9999
