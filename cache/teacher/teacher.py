"""The frozen teacher: stored pixels in, patch tokens out; and its identity: whose answers a store holds.

Any timm ViT works, with weights from a local file, from one of our own runs, or random. Prefix tokens (class,
registers) are dropped, patch tokens come row-major over the grid. The adapter derives its own input from the pixels on
the device: to [0, 1], grey repeated to three channels, resized where asked, mean and std. That derivation is part of
the identity: a wrong normalisation is another teacher.
"""

from __future__ import annotations

import difflib
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.identity import Json, parse_json, soft_versions
from usjepa.cache.teacher.checkpoints import load_into, read_tensors, weights_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from usjepa.cache.recipes.cache import TeacherSettings

INPUT_VERSION = 1
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Teacher:
    """A frozen encoder of stored pixels. Call it with uint8 [B, C, S, S]; it gives float32 [B, T, D]."""

    name: str
    model: torch.nn.Module
    identity: dict[str, Json]
    """Hard: everything that changes its answers."""
    grid: tuple[int, int]
    dim: int
    device: torch.device
    warning: str | None
    """What a person must be told before trusting it."""
    settings: TeacherSettings
    image_size: int

    def __post_init__(self) -> None:
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(self.settings.mean, device=self.device).reshape(shape)
        self._std = torch.tensor(self.settings.std, device=self.device).reshape(shape)

    def inputs(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the model's input, float32 [B, 3, s, s], from uint8 [B, C, S, S]."""
        x = pixels_BCSS.to(self.device, non_blocking=True).to(torch.float32) / 255.0
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if x.shape[-1] != self.image_size:
            edge = (self.image_size, self.image_size)
            x = torch.nn.functional.interpolate(x, edge, mode="bicubic", antialias=True, align_corners=False)
        return (x - self._mean) / self._std

    def __call__(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Return patch tokens, float32 [B, T, D], without gradient."""
        with torch.no_grad(), self._precision():
            tokens = _tokens(self.model, self.inputs(pixels_BCSS), self.settings.block, self.settings.norm)
        return tokens.to(torch.float32)

    def wait(self) -> None:
        """Wait until the device has computed all that it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _precision(self) -> AbstractContextManager[Any]:
        dtype = _AUTOCAST.get(self.settings.compute)
        return torch.autocast(self.device.type, dtype) if dtype is not None else nullcontext()


def _tokens(model: torch.nn.Module, x: torch.Tensor, block: int | None, norm: bool) -> torch.Tensor:
    last = len(model.blocks) - 1 if block is None else block - 1  # type: ignore[arg-type]
    forward: Callable[..., Any] = model.forward_intermediates  # type: ignore[assignment]
    out: list[torch.Tensor] = forward(
        x, indices=[last], norm=norm, stop_early=True, output_fmt="NLC", intermediates_only=True
    )
    return out[0]


def load_teacher(settings: TeacherSettings, pixel_size: int, device: str | None = None) -> Teacher:
    """Build a teacher.

    Args:
        settings: its architecture, weights, layer and normalisation.
        pixel_size: S, edge of the stored pixels.
        device: torch device; none: a GPU when there is one.

    Raises:
        UsageError: unknown architecture, missing weights, a block it does not have, or a precision the device lacks.
        TeacherError: the checkpoint does not fit.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if settings.compute == "fp16" and place.type == "cpu":
        raise UsageError("cache.teacher.compute=fp16 needs a GPU. Use fp32 or bf16 on a CPU.")
    edge = settings.image_size or pixel_size
    model, model_args = _build(settings, edge)
    if settings.block is not None and settings.block > len(model.blocks):  # type: ignore[arg-type]
        raise UsageError(
            f"cache.teacher.block={settings.block}: {settings.architecture} has {len(model.blocks)} blocks."  # type: ignore[arg-type]
        )
    weights, warning = _load_weights(model, settings)
    model.eval().requires_grad_(False).to(place)
    identity: dict[str, Json] = {
        "architecture": settings.architecture,
        "model_args": model_args,
        "weights": weights,
        "tokens": "patch",
        "block": settings.block,
        "norm": settings.norm,
        "input": {
            "version": INPUT_VERSION,
            "size": edge,
            "resize": "bicubic, antialiased" if edge != pixel_size else "none",
            "scale": "1/255",
            "mean": list(settings.mean),
            "std": list(settings.std),
        },
        "compute": settings.compute,
    }
    grid = tuple(int(n) for n in model.patch_embed.grid_size)  # type: ignore[union-attr]
    dim = int(model.num_features)  # type: ignore[arg-type]
    return Teacher(settings.name, model, identity, (grid[0], grid[1]), dim, place, warning, settings, edge)


def _build(settings: TeacherSettings, edge: int) -> tuple[torch.nn.Module, dict[str, Json]]:
    """Return the timm model with seeded random weights, and the arguments it was made with."""
    if settings.architecture not in timm.list_models():
        raise UsageError(f"timm has no model {settings.architecture!r}{nearest_models(settings.architecture)}")
    args: dict[str, Json] = {"img_size": edge}
    if settings.patch_size is not None:
        args["patch_size"] = settings.patch_size
    if settings.depth is not None:
        args["depth"] = settings.depth
    # A model's random weights must not depend on what was drawn before it was built.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            model = timm.create_model(settings.architecture, pretrained=False, num_classes=0, **args)
        except (TypeError, RuntimeError, AssertionError, ValueError) as error:
            raise UsageError(f"timm can't build {settings.architecture} with {args}: {error}") from error
    for needed in ("blocks", "patch_embed", "forward_intermediates"):
        if not hasattr(model, needed):
            raise UsageError(f"{settings.architecture} is no ViT: a teacher must give patch tokens on one grid.")
    return model, args


def _load_weights(model: torch.nn.Module, settings: TeacherSettings) -> tuple[str, str | None]:
    """Fill in the weights; return their hash and what a person must be told."""
    if settings.weights is None:
        warning = (
            f"teacher {settings.name!r} ({settings.architecture}) has RANDOM weights (seed {settings.seed}): its "
            "latents carry no learned knowledge. Give a checkpoint with --teacher FILE for real work."
        )
        return weights_hash(model.state_dict()), warning
    path = Path(settings.weights)
    file = path / "encoder.safetensors" if path.is_dir() else path
    tensors = read_tensors(file)
    report = load_into(model, tensors, str(file))
    note = report.summary() if report.dropped or report.resampled else None
    return weights_hash(tensors), f"{file}: {note}" if note else None


def soft_identity(teacher: Teacher) -> dict[str, Json]:
    """Return the versions and device that answers were computed with; recorded, never in the way."""
    if teacher.device.type == "cuda":
        device = torch.cuda.get_device_name(teacher.device)
    else:
        device = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return {**soft_versions(["timm", "torch", "usjepa"]), "device": device, "system": platform.system()}


def nearest_models(name: str) -> str:
    """Return a hint at the timm names closest to a misspelt one."""
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    return f"; did you mean {', '.join(close)}?" if close else "."


def resolve_teacher(text: str, settings: TeacherSettings | None) -> TeacherSettings:
    """Return the settings of the teacher that `--teacher` names.

    Args:
        text: a checkpoint file, the folder of a training run, `random`, or a timm model name (random weights).
        settings: the recipe's, for all that the text does not say.

    Raises:
        UsageError: the text is none of these.
        TeacherError: a run's folder holds no readable encoder.
    """
    from usjepa.cache.recipes.cache import TeacherSettings

    base = settings or TeacherSettings()
    path = Path(text)
    if text == "random":
        return base.model_copy(update={"weights": None})
    if path.is_dir():
        return _of_run(path, base)
    if path.is_file():
        return base.model_copy(update={"weights": text})
    if text in timm.list_models():
        return base.model_copy(update={"architecture": text, "weights": None})
    raise UsageError(
        f"--teacher {text}: no such file or run folder, and timm has no such model{nearest_models(text)} "
        "Give a checkpoint, the folder of a usjepa-train run, a timm name, or `random`."
    )


def _of_run(folder: Path, base: TeacherSettings) -> TeacherSettings:
    """Return the settings of an encoder that usjepa-train exported."""
    try:
        config = parse_json((folder / "config.json").read_bytes(), str(folder / "config.json"))
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
