"""The trained encoder as files that plain timm loads: `encoder.safetensors` and `config.json`.

config = json.loads(pathlib.Path("config.json").read_text())
model = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
model.load_state_dict(safetensors.torch.load_file("encoder.safetensors"), strict=True)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from usjepa.cache.errors import TrainingError, UsageError
from usjepa.cache.storage.durable import write_durably
from usjepa.cache.teacher.vit import build_timm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from usjepa.cache.identity import Json

WEIGHTS, CONFIG = "encoder.safetensors", "config.json"


@dataclass(frozen=True)
class EncoderConfig:
    """What is needed to build an exported encoder again."""

    architecture: str
    """timm model name."""
    model_args: dict[str, Any]
    """img_size, patch_size, in_chans and so on, for timm.create_model."""
    mean: tuple[float, ...]
    """Per input channel, taken off pixels in [0, 1]."""
    std: tuple[float, ...]
    """Per input channel, divides after the mean is taken off."""
    extra: dict[str, Json]
    """Where the encoder comes from: recipe, store, step."""


def export_encoder(
    model: torch.nn.Module,
    architecture: str,
    model_args: Mapping[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    folder: Path,
    extra: Mapping[str, Json],
) -> None:
    """Write a timm model's weights and configuration; each file is seen whole or not at all.

    Args:
        model: the timm model itself, without student wrappings.
        architecture: its timm name.
        model_args: what it was created with, JSON-able.
        mean: input normalisation, per channel.
        std: input normalisation, per channel.
        folder: existing or new.
        extra: provenance, kept under "usjepa".

    Raises:
        WriteError: the folder can't take the files.
    """
    edge = int(model_args["img_size"])
    channels = int(model_args.get("in_chans", 3))
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": int(model.num_features),  # type: ignore[arg-type]
        "global_pool": "token",
        "model_args": dict(model_args),
        "pretrained_cfg": {
            "input_size": [channels, edge, edge],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
        },
        "usjepa": dict(extra),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_durably(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
    # The configuration comes last: a folder that has one has the weights too.
    write_durably(folder / CONFIG, (json.dumps(config, indent=1, sort_keys=True) + "\n").encode())


def read_config(folder: Path) -> EncoderConfig:
    """Read an exported encoder's configuration; raises UsageError when the folder has none."""
    path = folder / CONFIG
    try:
        data = json.loads(path.read_text())
        cfg = data["pretrained_cfg"]
        return EncoderConfig(
            str(data["architecture"]),
            dict(data["model_args"]),
            tuple(float(x) for x in cfg["mean"]),
            tuple(float(x) for x in cfg["std"]),
            dict(data.get("usjepa", {})),
        )
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: no {CONFIG}, so no finished encoder is here. Let usjepa-train finish.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not the configuration of an exported encoder ({error!r}).") from error


def build_model(config: EncoderConfig) -> torch.nn.Module:
    """Build the timm model of a configuration with fresh weights; raises UsageError on an unknown architecture."""
    return build_timm(config.architecture, config.model_args, f"{CONFIG}: architecture")


def load_encoder(folder: Path) -> tuple[torch.nn.Module, EncoderConfig]:
    """Return an exported encoder in eval mode and its configuration.

    Raises:
        UsageError: the folder holds no finished encoder.
        TrainingError: its files are damaged or do not belong together.
    """
    config = read_config(folder)
    model = build_model(config)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: no {WEIGHTS}. Let usjepa-train finish.") from error
    except (SafetensorError, RuntimeError) as error:
        raise TrainingError(f"{folder / WEIGHTS}: can't be loaded into {config.architecture}: {error}") from error
    return model.eval(), config
