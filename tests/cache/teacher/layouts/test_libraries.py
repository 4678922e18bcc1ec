"""Files of public libraries' own vision transformers give the tokens of their classes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch

from tests.cache.teacher.layouts.test_equality import MEAN, STD, normalised, pixels, settings
from usjepa.cache.teacher.vit import load_vit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 64
Pair = tuple[torch.Tensor, torch.Tensor]


def drawn(model: Any) -> Any:
    """Return a model with random weights, all of order 1."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 and "token" not in name else 0.3
            noise = scale * torch.randn(parameter.shape, generator=rng)
            parameter.copy_(noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model.eval()


def loaded(folder: Path, content: dict[str, Any], **more: Any) -> torch.Tensor:
    """Return the tokens of the teacher that a file makes."""
    torch.save(content, folder / "c.pth")
    tokens: torch.Tensor = load_vit(settings(folder / "c.pth", **more), SIZE, torch.device("cpu"))(pixels(SIZE))
    return tokens


TIMM: dict[str, dict[str, Any]] = {
    "class token without a position": {"no_embed_class": True},
    "registers with positions": {"reg_tokens": 4},
    "registers without positions": {"reg_tokens": 4, "no_embed_class": True},
    "registers, no class token": {"reg_tokens": 4, "class_token": False, "global_pool": "avg"},
    "queries and keys normalised": {"qk_norm": True},
    "patches of 8": {"patch_size": 8},
    "patches of 32, one channel": {"patch_size": 32, "in_chans": 1},
}


def compared_timm(case: str, folder: Path) -> Pair:
    more = {"embed_dim": 48, "num_heads": 6, "depth": 2, **TIMM[case]}
    model = drawn(timm.create_model("vit_base_patch16_224", img_size=SIZE, num_classes=5, **more))
    channels = more.get("in_chans", 3)
    mean, std = MEAN[:channels], STD[:channels]
    found = loaded(folder, model.state_dict(), mean=mean, std=std)
    with torch.no_grad():
        return found, model.forward_features(normalised(pixels(SIZE), mean, std))[:, model.num_prefix_tokens :]


def compared_torchvision(folder: Path, older: bool = False) -> Pair:
    from torchvision.models import VisionTransformer

    model = drawn(VisionTransformer(SIZE, patch_size=16, num_layers=2, num_heads=6, hidden_dim=48, mlp_dim=96))
    held = model.state_dict()
    for ours, theirs in (("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2.")) if older else ():
        held = {name.replace(ours, theirs): tensor for name, tensor in held.items()}
    found = loaded(folder, {"state_dict": {f"model.{name}": tensor for name, tensor in held.items()}})
    with torch.no_grad():
        patches = model._process_input(normalised(pixels(SIZE), MEAN, STD))
        return found, model.encoder(torch.cat([model.class_token.expand(2, -1, -1), patches], dim=1))[:, 1:]


MONAI: dict[str, dict[str, Any]] = {
    "convolution": {},
    "linear patches": {"proj_type": "perceptron"},
    "linear patches, one channel": {"proj_type": "perceptron", "in_channels": 1},
    "class token, biases": {"classification": True, "qkv_bias": True},
}


def compared_monai(case: str, folder: Path) -> Pair:
    nets = pytest.importorskip("monai.networks.nets")
    small = {"in_channels": 3, "hidden_size": 48, "mlp_dim": 96, "num_layers": 2, "num_heads": 6, "spatial_dims": 2}
    torch.manual_seed(0)
    model = drawn(nets.ViT(**small | MONAI[case], img_size=(SIZE, SIZE), patch_size=(16, 16)))
    channels = MONAI[case].get("in_channels", 3)
    mean, std = MEAN[:channels], STD[:channels]
    beside = {"encoder1.layer.conv1.conv.weight": torch.ones(2), "out.conv.conv.weight": torch.ones(2)}
    held = {f"vit.{name}": tensor for name, tensor in model.state_dict().items()} | beside  # as in UNETR
    found = loaded(folder, held, mean=mean, std=std, args={"eps": 1e-5})
    with torch.no_grad():
        x = model.patch_embedding(normalised(pixels(SIZE), mean, std))
        prefix = int(hasattr(model, "cls_token"))
        x = torch.cat([model.cls_token.expand(2, -1, -1), x], dim=1) if prefix else x
        for block in model.blocks:
            x = block(x)
        return found, model.norm(x)[:, prefix:]


PAIRS: dict[str, Callable[[Path], Pair]] = {
    "torchvision: ViT": compared_torchvision,
    **{f"timm: {case}": partial(compared_timm, case) for case in TIMM},
    **{f"monai: ViT, {case}": partial(compared_monai, case) for case in MONAI},
}
_SLOW = [pytest.param(case, marks=pytest.mark.slow) if case.startswith("monai") else case for case in PAIRS]


@pytest.mark.parametrize("case", _SLOW)
def test_a_file_of_a_public_class_gives_its_tokens(tmp_path: Path, case: str) -> None:
    found, wanted = PAIRS[case](tmp_path)
    assert wanted.std() > 0.1
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-4


def test_so_does_torchvisions_older_file(tmp_path: Path) -> None:
    found, wanted = compared_torchvision(tmp_path, older=True)
    assert (found - wanted).abs().max() < 1e-4
