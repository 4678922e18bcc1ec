"""What is scored: the student, its teacher, random weights, raw pixels, HOG. All give one float32 vector a frame.

Each has the identity that its features are kept under, and says how it pools. Vision transformers give the mean of
their patch tokens, teacher and student alike: the class token of a student was never trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from usjepa.evaluate.baselines import Hog, Pixels, grey_of
from usjepa.evaluate.teachers import Teachers

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.settings import Recipe
    from usjepa.cache.store import Batch
    from usjepa.evaluate.runs import Run
    from usjepa.evaluate.tasks import Task
    from usjepa.train.export import EncoderConfig

POOLING = "mean of patch tokens"
RANDOM_SEED = 1_000_003
"""Of the random weights; far from the seeds that people train with."""


class Encoder(Protocol):
    """Turns stored rows into features."""

    name: str
    pooling: str

    @property
    def identity(self) -> dict[str, Json]:
        """What its features depend on, beside the frames."""
        ...

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the store that it reads."""
        ...

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return float32 [B, F]."""
        ...


@dataclass
class TokenEncoder:
    """A timm ViT of ours: the student with its trained weights, or the same architecture with random ones."""

    name: str
    config: EncoderConfig
    weights: dict[str, Json]
    load: Callable[[], torch.nn.Module]
    """Called when features are first asked for: those that are kept need no model."""
    device: str
    pooling: str = POOLING
    layers: tuple[str, ...] = ("pixels",)
    _model: torch.nn.Module | None = field(default=None, repr=False)

    @property
    def identity(self) -> dict[str, Json]:
        """Weights, architecture and input."""
        return {"kind": "tokens", "pooling": self.pooling, **self.weights}

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return the mean of the patch tokens, float32 [B, D]."""
        import torch

        if self._model is None:
            self._model = self.load().eval().to(self.device)
        with torch.inference_mode():
            tokens_BLD = self._model.forward_features(self._input(batch.pixels))  # type: ignore[operator]
            prefix = int(self._model.num_prefix_tokens)  # type: ignore[arg-type]
            pooled: NDArray[np.float32] = tokens_BLD[:, prefix:].float().mean(dim=1).cpu().numpy()
        return pooled

    def _input(self, pixels_BCSS: NDArray[np.uint8]) -> torch.Tensor:
        """Return the model's input: its own channels, size and normalisation."""
        import torch

        channels, edge = int(self.config.model_args.get("in_chans", 3)), int(self.config.model_args["img_size"])
        given = torch.from_numpy(grey_of(pixels_BCSS)[:, None] if channels == 1 else pixels_BCSS)
        x = given.to(self.device).float() / 255.0
        x = x.expand(-1, channels, -1, -1)
        if x.shape[-1] != edge:
            x = torch.nn.functional.interpolate(x, (edge, edge), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (
            torch.tensor(v, device=self.device).reshape(1, -1, 1, 1) for v in (self.config.mean, self.config.std)
        )
        return (x - mean) / std


class Encoders:
    """Makes the encoders of an evaluation, each at its first use."""

    def __init__(self, run: Run, recipe: Recipe, device: str | None) -> None:
        import torch

        self._run, self._recipe = run, recipe
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._teachers = Teachers(run.teacher, recipe.cache.teacher, self._device)
        self._made: dict[str, Encoder] = {}

    @property
    def teacher_is_random(self) -> bool:
        """Whether the run's teacher is known to have had random weights."""
        return self._teachers.is_random

    def make(self, name: str, task: Task) -> tuple[Encoder | None, str]:
        """Return an encoder for a task, or None and why it can't be had."""
        if name == "teacher":
            return self._teachers.make(task.store)
        if name not in self._made:
            made: dict[str, Callable[[], Encoder]] = {
                "student": self._student,
                "random": self._random,
                "pixels": Pixels,
                "hog": Hog,
            }
            self._made[name] = made[name]()
        return self._made[name], ""

    def _student(self) -> Encoder:
        from usjepa.train.export import load_encoder

        run = self._run
        return TokenEncoder("student", run.config, run.encoder, lambda: load_encoder(run.folder)[0], self._device)

    def _random(self) -> Encoder:
        weights = {**self._run.encoder, "weights": {"random": RANDOM_SEED}}
        return TokenEncoder("random", self._run.config, weights, lambda: _untrained(self._run.config), self._device)


def _untrained(config: EncoderConfig) -> torch.nn.Module:
    """Return the architecture as a run would begin with it, from a seed of its own."""
    from usjepa.cache.settings import StudentSettings
    from usjepa.train.student import Student

    settings = StudentSettings.model_validate(
        {
            "architecture": config.architecture,
            "patch_size": config.model_args.get("patch_size"),
            "depth": config.model_args.get("depth"),
            "channels": config.model_args.get("in_chans", 3),
        }
    )
    model: torch.nn.Module = Student(settings, int(config.model_args["img_size"]), RANDOM_SEED).vit
    return model
