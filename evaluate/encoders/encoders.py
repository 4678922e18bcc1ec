"""Make what is scored: the student, its teacher, random weights, pixels, HOG, and named encoders.

All give one float32 vector per frame. Each has the identity that its features are kept under, and describes its
pooling. Vision transformers give the mean of their patch tokens, teacher and student alike: the class token of a
student was never trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.evaluate.encoders.base import STUDENT
from usjepa.evaluate.encoders.baselines import Hog, Pixels, PooledHog
from usjepa.evaluate.encoders.models import ModelEncoder
from usjepa.evaluate.encoders.named import RANDOM_SEED, Named, named_encoders
from usjepa.evaluate.encoders.teachers import Teachers

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.several.face import Readable
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.encoders.finished_run import FinishedRun
    from usjepa.train.record.export import EncoderConfig


_TITLES = {
    STUDENT: "Student (this run)",
    "teacher": "Its teacher",
    "random": "Random weights",
    "pixels": "Raw pixels",
    "hog": "Edges (HOG)",
    "hog-pooled": "HOG, pooled",
}
_OF_FIRST_STAGE = {"pixels": "Pixel teacher (this run)", "contrast": "Contrastive teacher (this run)"}
"""Objectives without a teacher: such an encoder is nobody's student."""


class Encoders:
    """Makes the encoders of an evaluation, each at its first use."""

    def __init__(self, run: FinishedRun, recipe: Recipe, device: str | None, named: tuple[str, ...] = ()) -> None:
        from usjepa.cache.teacher.device import choose_device

        self._run, self._recipe = run, recipe
        self._device = str(choose_device(device))
        self._teachers = Teachers(run.teacher, recipe.cache.teacher, self._device)
        self.named: list[Named] = named_encoders(named, recipe, self._device)
        """The named encoders, beside the run's own and the baselines."""
        self._made: dict[str, Encoder] = {one.key: one.encoder for one in self.named}

    @property
    def names(self) -> tuple[str, ...]:
        """Keys of all encoders, in the report's order."""
        return (STUDENT, *self._recipe.evaluate.baselines, *[one.key for one in self.named])

    def title(self, name: str) -> str:
        """Return the name of an encoder in tables."""
        if name == STUDENT and self._run.objective in _OF_FIRST_STAGE:
            return _OF_FIRST_STAGE[self._run.objective]
        return _TITLES.get(name) or next(one.title for one in self.named if one.key == name)

    @property
    def teacher_is_random(self) -> bool:
        """Whether the run's teacher is known to have had random weights."""
        return self._teachers.is_random

    def make(self, name: str, store: Readable) -> tuple[Encoder | None, str]:
        """Return an encoder for the frames of a store, or None and why it can't be had."""
        if name == "teacher":
            return self._teachers.make(store)
        if name not in self._made:
            made: dict[str, Callable[[], Encoder]] = {
                STUDENT: self._student,
                "random": self._random,
                "pixels": Pixels,
                "hog": Hog,
                "hog-pooled": PooledHog,
            }
            self._made[name] = made[name]()
        return self._made[name], ""

    def seeing(self, name: str, store: Readable) -> tuple[Encoder | None, str]:
        """Return an encoder that reads pixels, so that they can be corrupted first, or None and why there is none."""
        return self._teachers.live(store) if name == "teacher" else self.make(name, store)

    def _student(self) -> Encoder:
        from usjepa.train.record.export import load_encoder

        run = self._run
        return ModelEncoder(STUDENT, run.input, run.encoder, lambda: load_encoder(run.folder)[0], self._device)

    def _random(self) -> Encoder:
        seed = RANDOM_SEED + self._recipe.evaluate.random_seed
        weights = {**self._run.encoder, "weights": {"random": seed}}
        return ModelEncoder(
            "random", self._run.input, weights, lambda: _untrained(self._run.config, seed), self._device
        )


def _untrained(config: EncoderConfig, seed: int) -> torch.nn.Module:
    """Return the architecture as a run would begin with it, from another seed."""
    from usjepa.cache.recipes.train import StudentSettings
    from usjepa.train.model.student import Student

    settings = StudentSettings.model_validate(
        {
            "architecture": config.architecture,
            "patch_size": config.model_args.get("patch_size"),
            "depth": config.model_args.get("depth"),
            "channels": config.model_args.get("in_chans", 3),
        }
    )
    model: torch.nn.Module = Student(settings, int(config.model_args["img_size"]), seed).vit
    return model
