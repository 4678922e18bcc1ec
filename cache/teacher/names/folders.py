"""Read the folders of weights that transformers, timm and open_clip write.

They lie on disk or in a hub's cache: a configuration beside the weights says what no file of weights tells.

A store keeps whole frames, squashed to squares, and its regions and masks lie on what it keeps. So a model that its
authors show the middle of an image alone is refused, until `cache.teacher.image_size` says at which size it is to see
whole ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.teacher.checkpoints.files import parse_foreign_json
from usjepa.cache.teacher.names.transformers_config import epsilon, is_known_kind, settings_of_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from usjepa.cache.recipes.cache import TeacherSettings

WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin",
)  # fmt: skip
"""Files of weights in a folder, the first found is taken."""
_OF_FIELDS = ("img_size", "patch_size", "depth", "num_classes")
"""timm's arguments that have fields of their own or no part in a teacher."""
_HEAD_WIDTH = 64
"""open_clip's, where a configuration states no other."""


def weights_in(folder: Path) -> Path:
    """Return the file of weights in a folder; UsageError where it holds none of a known name."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"{folder}: holds no weights: none of {', '.join(WEIGHTS)}. Name the file itself.")


def is_described(file: Path) -> bool:
    """Return whether a configuration that is known lies beside a file of weights, and is of it.

    Raises:
        TeacherError: it is damaged.
    """
    if file.name not in WEIGHTS:
        return False
    if (file.parent / "open_clip_config.json").is_file():
        return True
    config = file.parent / "config.json"
    if not config.is_file():
        return False
    content = parse_foreign_json(config)
    return "pretrained_cfg" in content or is_known_kind(content)


def folder_settings(folder: Path, base: TeacherSettings, file: Path | None = None) -> TeacherSettings:
    """Return the settings that a folder's configuration tells, over a recipe's; what `--set` stated stays.

    Args:
        folder: holds weights and their configuration.
        base: the recipe's teacher.
        file: which of its files of weights is meant; none: the first of `WEIGHTS` that is there.

    Raises:
        UsageError: no configuration that is known, one that leaves out what can't be guessed, or an input that is no
            whole square.
        TeacherError: a configuration is damaged.
    """
    try:
        told = _told(folder)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise TeacherError(
            f"{folder}: its configuration is none of transformers, timm or open_clip ({error!r})."
        ) from error
    crop = told.pop("crop", None)
    if crop is not None and "image_size" not in base.stated:
        raise UsageError(
            f"{folder}: its authors {crop}. A store keeps whole frames, and regions, masks and the student's patches "
            f"lie on these, so the crop can't be made. --set cache.teacher.image_size={told['image_size']} shows it "
            "whole frames at that size; what is in them is then smaller than its authors showed it."
        )
    unscaled = told.pop("unscaled", None)
    lacking = [name for name in ("mean", "std") if name not in told and name not in base.stated]
    if lacking:
        flags = " ".join(f"--set 'cache.teacher.{name}=[...]'" for name in lacking)
        if unscaled is not None:
            raise UsageError(
                f"{unscaled}: do_rescale = false, so whether mean and deviation are of bytes or of pixels in [0, 1] "
                f"can't be told. State those of pixels in [0, 1]: {flags}"
            )
        raise UsageError(f"{folder}: says nothing of its input's {' and '.join(lacking)}. State them: {flags}")
    args = {**told.pop("args", {}), **(base.args if "args" in base.stated else {})}
    update = {name: value for name, value in told.items() if name not in base.stated}
    return base.model_copy(update={**update, "args": args, "weights": str(file or weights_in(folder))})


def _told(folder: Path) -> dict[str, Any]:
    open_clip, config = folder / "open_clip_config.json", folder / "config.json"
    if open_clip.is_file():
        return _of_open_clip(parse_foreign_json(open_clip), str(open_clip))
    if not config.is_file():
        raise UsageError(f"{folder}: holds no config.json: neither a finished run nor a folder of another library.")
    content = parse_foreign_json(config)
    if "pretrained_cfg" in content:
        return _of_timm(content)
    told: dict[str, Any] = settings_of_config(content, str(config))
    preprocessor, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if preprocessor.is_file():
        return told | _input(parse_foreign_json(preprocessor), str(preprocessor))
    # What makes images and texts ready together, as CLIP's, is written into one file.
    part = parse_foreign_json(whole).get("image_processor") if whole.is_file() else None
    return told | (_input(part, str(whole)) if isinstance(part, dict) else {})


def _of_timm(content: Mapping[str, Any]) -> dict[str, Any]:
    cfg = content["pretrained_cfg"]
    channels, height, width = cfg["input_size"]
    args = content.get("model_args") or {}
    stated = {name: value for name, value in args.items() if name not in _OF_FIELDS}
    if channels != 3:
        stated.setdefault("in_chans", channels)
    share = float(cfg.get("crop_pct") or 1)
    return {
        "architecture": str(content["architecture"]),
        "args": stated,
        "patch_size": args.get("patch_size"),
        "depth": args.get("depth"),
        "image_size": _square(height, width, "pretrained_cfg.input_size"),
        **({"crop": _cropped(f"crop_pct = {share:g}", round(height / share), height)} if share < 1 else {}),
        **_normalised(cfg["mean"], cfg["std"]),
    }


def _cropped(where: str, resized: int, kept: int) -> str:
    """Return what authors do with an image that they show the middle of."""
    return f"resize an image to {resized} pixels and take the {kept} in the middle ({where})"


def _of_open_clip(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    model, preprocess = content["model_cfg"], content["preprocess_cfg"]
    vision = model["vision_cfg"]
    told = _normalised(preprocess["mean"], preprocess["std"])
    size = vision.get("image_size", 224)
    height, width = size if isinstance(size, list) else (size, size)
    told["image_size"] = _square(height, width, "vision_cfg.image_size")
    if "timm_model_name" in vision:
        return {**told, "architecture": str(vision["timm_model_name"]), "args": {}}
    if isinstance(vision.get("layers"), list):
        raise UsageError(f"{where}: its vision tower is a ResNet of CLIP's own kind, which timm has no name for here.")
    heads = int(vision["width"]) // int(vision.get("head_width", _HEAD_WIDTH))
    norm, act = dict(vision.get("norm_kwargs") or {}), dict(vision.get("act_kwargs") or {})
    eps, tanh = epsilon(norm.pop("eps", 1e-5)), act.pop("approximate", "none") == "tanh"
    if norm or act:
        raise UsageError(f"{where}: norm_kwargs or act_kwargs with {', '.join((*norm, *act))}, which timm can't have.")
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu_tanh" if tanh else "gelu"
    return {
        **told,
        "architecture": "vit_base_patch16_224" if vision.get("no_ln_pre") else "vit_base_patch16_clip_224",
        "args": {"num_heads": heads, "eps": eps, "act_layer": activation},
    }


def _input(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return size and normalisation that a preprocessor of transformers states."""
    factor = content.get("rescale_factor", 1 / 255)
    if content.get("do_rescale", True) and abs(float(factor) * 255 - 1) > 1e-3:
        raise UsageError(f"{where}: rescale_factor = {factor}: a teacher is given pixels over 255.")
    told: dict[str, Any] = {}
    padded = content.get("size")
    if isinstance(padded, dict) and "longest_edge" in padded:  # SAM's: resized and padded; a store squashes
        content = {**content, "size": content.get("pad_size", padded["longest_edge"]), "do_center_crop": False}
    cropped = bool(content.get("do_center_crop"))
    kept = _edge(content.get("crop_size" if cropped else "size"), "crop_size" if cropped else "size")
    if kept is not None:
        told["image_size"] = kept
    resized = _edge(content.get("size"), "size") if cropped and content.get("do_resize", True) else None
    if kept is not None and resized is not None and resized > kept:
        told["crop"] = _cropped(f"{where}: size and crop_size", resized, kept)
    if not content.get("do_normalize", True):
        return {**told, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if not content.get("do_rescale", True):  # of bytes, or of pixels that somebody had divided before: it does not say
        return {**told, "unscaled": where}
    if "image_mean" in content and "image_std" in content:
        told |= _normalised(content["image_mean"], content["image_std"])
    return told


def _edge(size: Any, name: str) -> int | None:
    """Return the edge that a size of transformers states; None where it states none."""
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if not isinstance(size, dict):
        return None
    edge = size.get("shortest_edge")
    return _square(size.get("height", edge), size.get("width", edge), name)


def _normalised(mean: Any, std: Any) -> dict[str, Any]:
    pair = {"mean": tuple(float(x) for x in mean), "std": tuple(float(x) for x in std)}
    if any(not 0 <= x <= 1 for x in pair["mean"]) or any(x <= 0 for x in pair["std"]):
        raise ValueError(f"mean {mean} and std {std} are not of pixels in [0, 1]")
    return pair


def _square(height: Any, width: Any, name: str) -> int:
    if height != width or not isinstance(height, int) or height < 1:
        raise UsageError(f"{name}: {height} x {width}: a teacher's input must be square. Set cache.teacher.image_size.")
    return height
