"""Resolve what `--teacher` names, and load the teacher that settings describe."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import timm

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.adapters import find_adapter, is_adapter, make
from usjepa.cache.teacher.device import choose_device
from usjepa.cache.teacher.exported import EARLIER_WEIGHTS, WEIGHTS, check_exported, is_exported, weights_name
from usjepa.cache.teacher.names.folders import folder_settings, is_described
from usjepa.cache.teacher.names.hub import hub_folder, is_hub_name
from usjepa.cache.teacher.names.preset import preset_settings
from usjepa.cache.teacher.names.presets import PRESETS, is_preset

if TYPE_CHECKING:
    from usjepa.cache.identity import Json
    from usjepa.cache.teacher.teacher import Pass, Teacher

logger = logging.getLogger(__name__)

_OF_FIELDS = ("img_size", "patch_size", "depth")
"""Arguments for timm that have fields of their own."""


def load_pass(settings: TeacherSettings, pixel_size: int, device: str | None = None) -> Pass:
    """Build a teacher, or one for each of `blocks`, by the adapter that its architecture names.

    Args:
        settings: its architecture, weights, layer and normalisation.
        pixel_size: S, edge of the stored pixels.
        device: torch device; none: a GPU when there is one.

    Raises:
        UsageError: no such device or architecture, missing weights, or settings that the adapter refuses.
        TeacherError: the checkpoint does not fit, or the adapter failed.
    """
    return make(find_adapter(settings.architecture), settings, pixel_size, choose_device(device))


def load_teacher(settings: TeacherSettings, pixel_size: int, device: str | None = None) -> Teacher:
    """Build one teacher; arguments and errors as of `load_pass`.

    Raises:
        UsageError: also where the settings ask for several blocks.
    """
    return only_teacher(load_pass(settings, pixel_size, device))


def only_teacher(run: Pass, name: str | None = None) -> Teacher:
    """Return the teacher of a name among those of a pass; without a name, the only one.

    Raises:
        UsageError: there is none of that name, or several without one.
    """
    found = [teacher for teacher in run.teachers if name in (None, teacher.name)]
    if len(found) != 1:
        names = ", ".join(teacher.name for teacher in run.teachers)
        what = f"there is no {name}" if name is not None else "one is needed here"
        raise UsageError(
            f"cache.teacher.blocks names {names}, and {what}. Name one of them, or give cache.teacher.block=N in place "
            "of blocks."
        )
    return found[0]


def resolve_teacher(text: str, settings: TeacherSettings | None) -> TeacherSettings:
    """Return the settings of the teacher that `--teacher` names.

    Args:
        text: a checkpoint file, of which a configuration beside it may tell more; `PRESET=FILE`; the folder of a
            training run, or one that transformers, timm or open_clip wrote; `hf-hub:ORG/NAME` or timm's `NAME.TAG`;
            `random`; the name of an installed adapter, or `module:function` of another one.
        settings: the recipe's, for everything that the text does not name.

    Raises:
        UsageError: the text is none of these, or a configuration leaves out what can't be guessed.
        TeacherError: a folder holds no readable encoder.
        DamageError: the run's encoder is not as it was exported.
    """
    base = settings or TeacherSettings()
    path = Path(text)
    if text == "random":
        return base.model_copy(update={"weights": None})
    if path.is_dir():
        return _of_run(path, base) if is_exported(path) else folder_settings(path, base)
    if path.is_file():
        return _of_file(path, base)
    name, named, file = text.partition("=")
    if named:
        return preset_settings(name, file, base, PRESETS)
    if is_adapter(text):
        return base.model_copy(update={"architecture": text})
    if is_hub_name(text):
        return folder_settings(hub_folder(text), base)
    raise UsageError(f"--teacher {text}: {_what_it_lacks(text)}")


def _what_it_lacks(text: str) -> str:
    """Return why a text names no teacher, and what to write in its place; random weights must be asked for."""
    if is_preset(text):
        return f"a preset without weights. Write --teacher {text}=FILE; they are had from {PRESETS[text].where}."
    if timm.is_model(text):
        return (
            f"names an architecture, not weights. Write {text}.TAG for timm's pretrained ones, --teacher FILE --set "
            f"cache.teacher.architecture={text} for yours, or --teacher random --set cache.teacher.architecture={text} "
            "for random ones."
        )
    close = difflib.get_close_matches(text, PRESETS, n=3)
    hint = f" Is it the preset {' or '.join(close)}?" if close else ""
    return (
        f"no such file or folder.{hint} Give a checkpoint, PRESET=FILE (usjepa-cache teachers lists presets), the "
        "folder of a usjepa-train run or of transformers, timm or open_clip, hf-hub:ORG/NAME, timm's NAME.TAG, "
        "`random`, or module:function of your own adapter."
    )


def load_described(
    identity: dict[str, Json], base: TeacherSettings | None, weights: str | None, pixel_size: int, device: str | None
) -> Teacher:
    """Load the teacher that a stored hard identity describes; see `described_teacher` and `load_pass`."""
    settings = described_teacher(identity, base, weights)
    run = load_pass(settings, pixel_size, device)
    name = None if settings.blocks is None else f"{settings.name}.{identity['block']}"
    return only_teacher(run, name)


def described_teacher(identity: dict[str, Json], base: TeacherSettings | None, weights: str | None) -> TeacherSettings:
    """Return the settings of the teacher that a stored hard identity describes.

    Args:
        identity: of a layer of latents or a finished run.
        base: the recipe's, for what an identity does not hold (name, batch size, seed).
        weights: where its weights lie, which no identity states; none: random ones.
    """
    update: dict[str, object] = {"architecture": identity["architecture"], "weights": weights, "blocks": None}
    if not is_adapter(str(identity["architecture"])):
        update |= {
            "patch_size": identity["model_args"].get("patch_size"),
            "depth": identity["model_args"].get("depth"),
            "args": {name: value for name, value in identity["model_args"].items() if name not in _OF_FIELDS},
            "positions": identity.get("positions"),
            "block": None if "pass" in identity else identity["block"],
            "blocks": tuple(identity["pass"]) if "pass" in identity else None,
            "norm": identity["norm"],
            "image_size": identity["input"]["size"],
            "mean": tuple(identity["input"]["mean"]),
            "std": tuple(identity["input"]["std"]),
            "compute": identity["compute"],
            "compile": identity.get("compile", False),
        }
    return (base or TeacherSettings()).model_copy(update=update)


def _of_file(file: Path, base: TeacherSettings) -> TeacherSettings:
    """Return the recipe's settings with weights from a file, or those that a configuration beside it tells."""
    if file.name in (WEIGHTS, EARLIER_WEIGHTS) and is_exported(file.parent):
        return _of_run(file.parent, base)
    if is_described(file):
        logger.info(f"{file}: model and input as the configuration beside it says (--set has the last word)")
        return folder_settings(file.parent, base, file)
    return base.model_copy(update={"weights": str(file)})


def _of_run(folder: Path, base: TeacherSettings) -> TeacherSettings:
    """Return the settings of an encoder that usjepa-train exported."""
    try:
        config = check_exported(folder, (weights_name(folder),))
    except FileNotFoundError as error:
        raise UsageError(f"--teacher {folder}: holds no config.json: not the folder of a finished run.") from error
    try:
        args, cfg = config["model_args"], config["pretrained_cfg"]
        channels = int(args.get("in_chans", 3))
        mean, std = (tuple(float(x) for x in cfg[key]) for key in ("mean", "std"))
        update = {
            "architecture": str(config["architecture"]),
            "weights": str(folder),
            "patch_size": args.get("patch_size"),
            "depth": args.get("depth"),
            "args": {} if channels == 3 else {"in_chans": channels},
            "image_size": int(args["img_size"]),
            "mean": mean,
            "std": std,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise TeacherError(
            f"{folder / 'config.json'}: not the configuration of an exported encoder ({error!r})."
        ) from error
    wanted = {name: value for name, value in update.items() if name == "weights" or name not in base.stated}
    return base.model_copy(update=wanted)
