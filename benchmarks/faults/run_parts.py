"""Keep what a training leaves, weights, configuration and log, in the ways compared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import timm
import torch

from usjepa.evaluate.encoders.finished_run import open_run
from usjepa.train.record.export import EncoderConfig, export_encoder, load_encoder
from usjepa.train.record.lines import to_text
from usjepa.train.record.log import read_log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.train.record.lines import StepLine

STEPS = 200
_ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2}


class ExportedRun:
    """The folder of a finished run, read as `usjepa-evaluate` reads it."""

    name = "usjepa run"

    def write(self, root: Path, seed: int) -> None:
        model, losses = _trained(seed)
        root.mkdir(parents=True)
        (root / "log.jsonl").write_bytes(b"".join(to_text(_line(step, loss)) for step, loss in enumerate(losses)))
        config = EncoderConfig("test_vit", _ARGS, (0.5,) * 3, (0.25 + 0.01 * seed,) * 3, {})
        export_encoder(model, config, root, ("log.jsonl",))

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        run = open_run(root)
        model, config = load_encoder(root)
        if run.log is None:
            raise FileNotFoundError("log.jsonl")  # `open_run` says so in a line, and goes on without a curve
        losses = [line["loss"] for line in read_log(root / "log.jsonl") if line["kind"] == "step"]
        yield from _parts(model.state_dict(), config.std, losses)

    def files(self, root: Path) -> list[Path]:
        return sorted(path for path in root.iterdir() if path.is_file())


class PlainFiles:
    """The same as most programs write it: safetensors, JSON, a JSON object per line."""

    name = "safetensors + JSON"

    def write(self, root: Path, seed: int) -> None:
        model, losses = _trained(seed)
        root.mkdir(parents=True)
        safetensors.torch.save_file(model.state_dict(), root / "encoder.safetensors")
        (root / "config.json").write_text(json.dumps({"std": [0.25 + 0.01 * seed] * 3}))
        (root / "log.jsonl").write_text("".join(f"{json.dumps(_line(*line))}\n" for line in enumerate(losses)))

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        weights = safetensors.torch.load_file(root / "encoder.safetensors")
        std = json.loads((root / "config.json").read_text())["std"]
        losses = [json.loads(line)["loss"] for line in (root / "log.jsonl").read_text().splitlines()]
        yield from _parts(weights, std, losses)

    def files(self, root: Path) -> list[Path]:
        return sorted(root.iterdir())


class OneCheckpoint:
    """The same in one file by torch.save."""

    name = "one .pt file"

    def write(self, root: Path, seed: int) -> None:
        model, losses = _trained(seed)
        root.mkdir(parents=True)
        content = {"weights": model.state_dict(), "std": [0.25 + 0.01 * seed] * 3, "losses": losses}
        torch.save(content, root / "last.pt")

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        content = torch.load(root / "last.pt", weights_only=True)
        yield from _parts(content["weights"], content["std"], content["losses"])

    def files(self, root: Path) -> list[Path]:
        return [root / "last.pt"]


def _trained(seed: int) -> tuple[torch.nn.Module, list[float]]:
    """Return a model and the losses of a training, made up."""
    torch.manual_seed(seed)
    model = timm.create_model("test_vit", num_classes=0, **_ARGS)
    return model, np.random.default_rng(seed).uniform(0.1, 1, STEPS).tolist()


def _line(step: int, loss: float) -> StepLine:
    return {
        "kind": "step",
        "step": step,
        "epoch": 0,
        "loss": loss,
        "lr": 1e-4,
        "wd": 0.04,
        "grad_norm": 1.0,
        "images": 8,
        "unusable": 0,
        "batch": "0" * 16,
        "images_per_s": 100.0,
        "data_wait_s": 0.0,
    }


def _parts(weights: Any, std: Any, losses: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield everything that was written, numbered: each tensor by name, the input, the losses."""
    parts = [weights[name].numpy() for name in sorted(weights)]
    yield from enumerate([*parts, np.array(std, np.float64), np.array(losses, np.float64)])
