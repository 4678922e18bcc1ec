"""The adapters in docs/examples give the tokens of the classes that they wrap."""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.resolve import load_teacher

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


@contextmanager
def example(name: str) -> Iterator[Any]:
    """Give a module of docs/examples; it is gone afterwards."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))
        sys.modules.pop(name, None)


def v_jepa_2(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of the teacher, and those of transformers' own class."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "crop_size": 64, "frames_per_clip": 4}
    predictor = {"pred_hidden_size": 48, "pred_num_attention_heads": 3, "pred_num_hidden_layers": 1}
    torch.manual_seed(0)
    model = transformers.VJEPA2Model(transformers.VJEPA2Config(**sizes, **predictor, initializer_range=0.3)).eval()
    model.save_pretrained(folder)
    with example("vjepa2_teacher"):
        teacher: Any = load_teacher(
            TeacherSettings(architecture="vjepa2_teacher:vjepa2", weights=str(folder)), 64, "cpu"
        )
    pixels = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    clip = teacher.input(pixels, "cpu")[:, None].expand(-1, 2, -1, -1, -1)
    with torch.no_grad():
        wanted = model(pixel_values_videos=clip, skip_predictor=True).last_hidden_state
    assert teacher.grid == (4, 4)
    return teacher(pixels), wanted


def echocare(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of the teacher, and the places of the map that MONAI's own class gives."""
    pytest.importorskip("monai")
    with example("echocare_teacher") as module:
        for name, value in {"WIDTH": 12, "DEPTHS": (1, 1, 1, 1), "HEADS": (2, 2, 2, 2), "WINDOW": (4, 4)}.items():
            setattr(module, name, value)
        torch.manual_seed(0)
        swin = module.SwinTransformer(
            in_chans=3, embed_dim=12, window_size=(4, 4), patch_size=(2, 2), depths=(1, 1, 1, 1),
            num_heads=(2, 2, 2, 2), spatial_dims=2, use_v2=True,
        ).eval()  # fmt: skip
        torch.save(swin.state_dict() | {"mask_token": torch.ones(1)}, folder / "e.pth")
        stated: dict[str, Any] = {"mean": (0.1, 0.1, 0.1), "std": (0.2, 0.2, 0.2), "image_size": 64}
        settings = TeacherSettings(architecture="echocare_teacher:echocare", weights=str(folder / "e.pth"), **stated)
        teacher: Any = load_teacher(settings, 64, "cpu")
    pixels = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        wanted = swin(teacher.input(pixels, "cpu"))[3]
    assert teacher.grid == (4, 4)
    return teacher(pixels), wanted.flatten(2).transpose(1, 2)


def test_the_example_of_v_jepa_2_gives_the_tokens_of_transformers_own_class(tmp_path: Path) -> None:
    found, wanted = v_jepa_2(tmp_path)
    assert wanted.std() > 0.1
    assert torch.equal(found, wanted)


def test_the_example_of_echocare_gives_the_maps_of_monais_own_class(tmp_path: Path) -> None:
    found, wanted = echocare(tmp_path)
    assert torch.equal(found, wanted)
