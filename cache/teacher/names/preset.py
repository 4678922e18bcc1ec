"""Define what is known of a published teacher, and make settings of it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.teacher.checkpoints.positions import Positions

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Preset:
    """A published teacher: what no file of its weights tells, and what people should know of it."""

    title: str
    architecture: str
    """timm's name of the model, or of its kind where `args` state more."""
    layout: str
    """Whose code names the tensors of its files."""
    paper: str
    licence: str
    """Of the weights."""
    where: str
    """Where its weights are had."""
    seen: str
    """Which published evaluation sets it was trained on, as far as it is known."""
    args: Mapping[str, Json] = field(default_factory=dict)
    size: int = 224
    """Edge of its input in pixels; the whole frame is resized to it."""
    input: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    """Mean and deviation per channel, of pixels in [0, 1]."""
    positions: Positions | None = None
    norm: bool = True
    resize: str = "squashed"
    """What its authors do with a frame that is not square; a store always squashes."""
    note: str = ""


def preset_settings(name: str, file: str, base: TeacherSettings, presets: Mapping[str, Preset]) -> TeacherSettings:
    """Return the settings of a preset with weights from a file, over a recipe's; what `--set` stated stays.

    Args:
        name: of a preset.
        file: its weights: a file, or a folder that holds them.
        base: the recipe's teacher.
        presets: the known ones.

    Raises:
        UsageError: there is no such preset or file.
    """
    if name not in presets:
        close = difflib.get_close_matches(name, presets, n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise UsageError(f"--teacher {name}={file}: no such preset.{hint} `usjepa-cache teachers` lists them.")
    preset = presets[name]
    from usjepa.cache.teacher.names.folders import weights_in

    path = Path(file)
    if not path.exists():
        raise UsageError(f"--teacher {name}={file}: no such file. Its weights are had from {preset.where}.")
    weights = weights_in(path) if path.is_dir() else path
    wanted: dict[str, object] = {
        "name": name,
        "architecture": preset.architecture,
        "patch_size": None,
        "depth": None,
        "positions": preset.positions,
        "norm": preset.norm,
        "image_size": preset.size,
        "mean": preset.input[0],
        "std": preset.input[1],
    }
    update = {key: value for key, value in wanted.items() if key not in base.stated}
    args = {**preset.args, **(base.args if "args" in base.stated else {})}
    return base.model_copy(update={**update, "args": args, "weights": str(weights)})
