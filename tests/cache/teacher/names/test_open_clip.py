"""Files and folders that open_clip writes give the tokens of open_clip's own classes: `make test-slow`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from tests.cache.teacher.layouts.test_equality import MEAN, STD, normalised, pixels
from tests.cache.teacher.layouts.test_libraries import drawn
from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.names.folders import folder_settings
from usjepa.cache.teacher.resolve import load_teacher, resolve_teacher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

Pair = tuple[torch.Tensor, torch.Tensor]
SIZE = 64
VISION = {"image_size": SIZE, "layers": 2, "width": 128, "patch_size": 16, "head_width": 32}
TEXT = {"context_length": 7, "vocab_size": 30, "width": 32, "heads": 2, "layers": 1}
TRUNK = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": SIZE}
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    # name: (class, vision tower, quick GELU)
    "CLIP": ("CLIP", VISION, False),
    "CLIP, quick GELU": ("CLIP", VISION, True),
    "CLIP, a text tower of its own": ("CustomTextCLIP", VISION, False),
    "CLIP, layers scaled": ("CLIP", VISION | {"ls_init_value": 0.1}, False),
    "CLIP, no norm before": ("CLIP", VISION | {"no_ln_pre": True}, False),
    "CLIP, another epsilon": ("CLIP", VISION | {"norm_kwargs": {"eps": 1e-3}}, False),
    "CLIP, GELU by tanh": ("CLIP", VISION | {"act_kwargs": {"approximate": "tanh"}}, False),
    "a trunk of timm": ("CLIP", TRUNK, False),
    "a trunk of timm, a text tower of its own": ("CustomTextCLIP", TRUNK, False),
}


def model(case: str) -> Any:
    open_clip_model = pytest.importorskip("open_clip.model")
    kind, vision, quick = CASES[case]
    torch.manual_seed(0)
    return drawn(getattr(open_clip_model, kind)(32, vision, TEXT, quick_gelu=quick))


def tokens_of(visual: Any) -> torch.Tensor:
    """Return the patch tokens of open_clip's vision tower, row by row."""
    images = normalised(pixels(SIZE), MEAN, STD)
    with torch.no_grad():
        if hasattr(visual, "trunk"):
            maps: torch.Tensor = visual.trunk.forward_features(images)
            return maps.flatten(2).transpose(1, 2)
        tokens: torch.Tensor = visual.ln_post(visual.transformer(visual._embeds(images)))
    return tokens[:, 1:]


def written(case: str, folder: Path) -> Any:
    """Return the model, of which open_clip wrote the configuration."""
    made = model(case)
    _, vision, quick = CASES[case]
    made.visual.image_mean, made.visual.image_std = MEAN, STD
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT, **({"quick_gelu": True} if quick else {})}
    publishing = pytest.importorskip("open_clip.push_to_hf_hub")
    publishing.save_config_for_hf(made, folder / "open_clip_config.json", config)
    held = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
    save_file(held, folder / "open_clip_model.safetensors")
    return made


def compared(case: str, folder: Path) -> Pair:
    visual = written(case, folder).visual
    teacher = load_teacher(resolve_teacher(str(folder), None), SIZE, "cpu")
    return teacher(pixels(SIZE)), tokens_of(visual)


def compared_file(folder: Path) -> Pair:
    made = model("CLIP, quick GELU")
    held = {f"module.{name}": tensor for name, tensor in made.state_dict().items()}
    torch.save({"state_dict": held, "epoch": 3, "name": "run"}, folder / "epoch_3.pt")  # as its training saves it
    args: dict[str, Any] = {"num_heads": 4, "act_layer": "quick_gelu", "eps": 1e-5}
    settings = TeacherSettings(weights=str(folder / "epoch_3.pt"), mean=MEAN, std=STD, args=args)
    return load_teacher(settings, SIZE, "cpu")(pixels(SIZE)), tokens_of(made.visual)


PAIRS: dict[str, Callable[[Path], Pair]] = {
    **{case: partial(compared, case) for case in CASES},
    "CLIP, a training's file": compared_file,
}


@pytest.mark.parametrize("case", PAIRS)
def test_what_open_clip_writes_gives_the_tokens_of_its_own_class(tmp_path: Path, case: str) -> None:
    found, wanted = PAIRS[case](tmp_path)
    assert wanted.std() > 0.1
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-4


def test_what_its_configuration_says_and_timm_can_not_do_is_refused(tmp_path: Path) -> None:
    written("CLIP", tmp_path)
    config = tmp_path / "open_clip_config.json"
    config.write_text(config.read_text().replace('"head_width"', '"act_kwargs": {"slope": 2}, "head_width"'))
    with pytest.raises(UsageError, match="norm_kwargs or act_kwargs with slope, which timm can't have"):
        folder_settings(tmp_path, TeacherSettings())
