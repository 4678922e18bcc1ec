"""Resolve what `--teacher` names, and load the teacher that settings describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import timm

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.adapters import find_adapter, is_adapter, make
from usjepa.cache.teacher.device import choose_device
from usjepa.cache.teacher.exported import WEIGHTS, check_exported
from usjepa.cache.teacher.timm_models import nearest_models

if TYPE_CHECKING:
    from usjepa.cache.identity import Json
    from usjepa.cache.teacher.teacher import Teacher


def load_teacher(settings: TeacherSettings, pixel_size: int, device: str | None = None) -> Teacher:
    """Build a teacher by the adapter that its architecture names.

    Args:
        settings: its architecture, weights, layer and normalisation.
        pixel_size: S, edge of the stored pixels.
        device: torch device; none: a GPU when there is one.

    Raises:
        UsageError: no such device or architecture, missing weights, or settings that the adapter refuses.
        TeacherError: the checkpoint does not fit, or the adapter failed.
    """
    return make(find_adapter(settings.architecture), settings, pixel_size, choose_device(device))


def resolve_teacher(text: str, settings: TeacherSettings | None) -> TeacherSettings:
    """Return the settings of the teacher that `--teacher` names.

    Args:
        text: a checkpoint file, the folder of a training run, `random`, a timm model name (random weights), the name
            of an installed adapter, or `module:function` of another one.
        settings: the recipe's, for everything that the text does not name.

    Raises:
        UsageError: the text is none of these.
        TeacherError: a run's folder holds no readable encoder.
        DamageError: the run's encoder is not as it was exported.
    """
    base = settings or TeacherSettings()
    path = Path(text)
    if text == "random":
        return base.model_copy(update={"weights": None})
    if path.is_dir():
        return _of_run(path, base)
    if path.is_file():
        return base.model_copy(update={"weights": text})
    if is_adapter(text):
        return base.model_copy(update={"architecture": text})
    if text in timm.list_models():
        return base.model_copy(update={"architecture": text, "weights": None})
    raise UsageError(
        f"--teacher {text}: no such file or run folder, and timm has no such model{nearest_models(text)} Give a "
        "checkpoint, the folder of a usjepa-train run, a timm name, `random`, or module:function of your own adapter."
    )


def described_teacher(identity: dict[str, Json], base: TeacherSettings | None, weights: str | None) -> TeacherSettings:
    """Return the settings of the teacher that a stored hard identity describes.

    Args:
        identity: of a layer of latents or a finished run.
        base: the recipe's, for what an identity does not hold (name, batch size, seed).
        weights: where its weights lie, which no identity states; none: random ones.
    """
    update: dict[str, object] = {"architecture": identity["architecture"], "weights": weights}
    if not is_adapter(str(identity["architecture"])):
        update |= {
            "patch_size": identity["model_args"].get("patch_size"),
            "depth": identity["model_args"].get("depth"),
            "block": identity["block"],
            "norm": identity["norm"],
            "image_size": identity["input"]["size"],
            "mean": tuple(identity["input"]["mean"]),
            "std": tuple(identity["input"]["std"]),
            "compute": identity["compute"],
        }
    return (base or TeacherSettings()).model_copy(update=update)


def _of_run(folder: Path, base: TeacherSettings) -> TeacherSettings:
    """Return the settings of an encoder that usjepa-train exported."""
    try:
        config = check_exported(folder, (WEIGHTS,))
    except FileNotFoundError as error:
        raise UsageError(f"--teacher {folder}: holds no config.json: not the folder of a finished run.") from error
    try:
        args, cfg = config["model_args"], config["pretrained_cfg"]
        channels = int(args.get("in_chans", 3))
        mean, std = (tuple(float(x) for x in cfg[key]) for key in ("mean", "std"))
        if channels != 3:
            raise UsageError(f"--teacher {folder}: an encoder of {channels} input channel can't be a teacher yet.")
        update = {
            "architecture": str(config["architecture"]),
            "weights": str(folder),
            "patch_size": args.get("patch_size"),
            "depth": args.get("depth"),
            "image_size": int(args["img_size"]),
            "mean": mean,
            "std": std,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise TeacherError(
            f"{folder / 'config.json'}: not the configuration of an exported encoder ({error!r})."
        ) from error
    return base.model_copy(update=update)
