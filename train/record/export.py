"""Export an encoder as files that plain timm loads, and load it again.

    model = timm.create_model("local-dir:RUN", pretrained=True)

The files are `model.safetensors` and `config.json`. The class token of a student is never trained, so the model is
configured to pool by the mean of its patch tokens: `model(x)` gives the features to use. Training itself needs no
pooling, and the weights are the same with any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from usjepa.cache.errors import TrainingError, UsageError
from usjepa.cache.storage.durable import write_durably
from usjepa.cache.storage.protocol import Guard, unguarded
from usjepa.cache.teacher.exported import (
    CONFIG,
    EARLIER_WEIGHTS,
    WEIGHTS,
    check_exported,
    config_text,
    exported_config,
    weights_name,
)
from usjepa.cache.teacher.timm_models import build_timm

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch

    from usjepa.cache.identity import Json


@dataclass(frozen=True)
class EncoderConfig:
    """The model and the input of an exported encoder."""

    architecture: str
    """timm model name."""
    model_args: dict[str, Any]
    """img_size, patch_size, in_chans and so on, for timm.create_model."""
    mean: tuple[float, ...]
    """Per input channel, subtracted from pixels in [0, 1]."""
    std: tuple[float, ...]
    """Per input channel, divides after the mean is subtracted."""
    extra: dict[str, Json]
    """Provenance, kept under "usjepa": recipe, store, step."""


def export_encoder(
    model: torch.nn.Module,
    config: EncoderConfig,
    folder: Path,
    beside: Iterable[str] = (),
    guard: Guard = unguarded,
) -> None:
    """Write a timm model's weights and configuration; each file appears complete or not at all.

    Args:
        model: the timm model itself, such as `Student.vit`.
        config: how it was created, its input and provenance.
        folder: existing or new.
        beside: other files of the folder whose hashes the configuration shall name.
        guard: called just before each file is published; may raise.

    Raises:
        WriteError: the folder can't take the files.
    """
    edge = int(config.model_args["img_size"])
    channels = int(config.model_args.get("in_chans", 3))
    model_args = config.model_args | _mean_pooling(model)
    content = {
        "architecture": config.architecture,
        "num_classes": 0,
        "num_features": int(model.num_features),  # type: ignore[arg-type]
        "global_pool": model_args.get("global_pool", model.global_pool),
        "model_args": model_args,
        "pretrained_cfg": {
            "input_size": [channels, edge, edge],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(config.mean),
            "std": list(config.std),
            "num_classes": 0,
        },
        "usjepa": config.extra,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_durably(folder / WEIGHTS, save(weights, metadata={"format": "pt"}), guard)
    # The configuration comes last: a folder that has one has the weights too, and it proves them.
    write_durably(folder / CONFIG, config_text(content, folder, (WEIGHTS, *beside)), guard)
    (folder / EARLIER_WEIGHTS).unlink(missing_ok=True)


def _mean_pooling(model: torch.nn.Module) -> dict[str, Any]:
    """Return the timm arguments under which the same weights pool by the mean of the patch tokens.

    Architectures without a class token to replace keep their pooling: those that pool by attention, whose weights would
    be left over, and those with a norm behind the mean.
    """
    pools_by_token = getattr(model, "global_pool", None) == "token" and not hasattr(model, "dist_token")
    return {"global_pool": "avg", "fc_norm": False} if pools_by_token else {}


def read_config(folder: Path) -> EncoderConfig:
    """Return an exported encoder's configuration.

    Raises:
        UsageError: the folder has none.
        DamageError: it is not as it was written.
        TrainingError: it is not one that `export_encoder` wrote.
    """
    path = folder / CONFIG
    try:
        data = exported_config(folder)
        cfg = data["pretrained_cfg"]
        return EncoderConfig(
            str(data["architecture"]),
            dict(data["model_args"]),
            tuple(float(x) for x in cfg["mean"]),
            tuple(float(x) for x in cfg["std"]),
            dict(data.get("usjepa", {})),
        )
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: no {CONFIG}, so it holds no finished encoder. Let usjepa-train finish.") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: not the configuration of an exported encoder ({error!r}).") from error


def load_encoder(folder: Path) -> tuple[torch.nn.Module, EncoderConfig]:
    """Return an exported encoder, a timm model in eval mode, and its configuration.

    Raises:
        UsageError: the folder holds no finished encoder.
        DamageError: its files are not as they were written.
        TrainingError: they do not fit each other.
    """
    config = read_config(folder)
    weights = folder / weights_name(folder)
    if not weights.is_file():
        raise UsageError(f"{folder}: no {WEIGHTS}. Let usjepa-train finish.")
    check_exported(folder, (weights.name,))
    model = build_timm(config.architecture, config.model_args, f"{folder / CONFIG}: architecture")
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise TrainingError(f"{weights}: can't be loaded into {config.architecture}: {error}") from error
    return model.eval(), config
