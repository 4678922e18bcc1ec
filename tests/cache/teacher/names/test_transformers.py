"""Folders that transformers writes give the tokens of transformers' own classes.

They need transformers, whose import alone takes seconds: `make test-slow`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from usjepa.cache.teacher.resolve import load_teacher, resolve_teacher

if TYPE_CHECKING:
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
