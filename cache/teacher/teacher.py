"""Define a frozen teacher: stored pixels in, patch tokens out, and its identity."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from usjepa.cache.teacher.device import soft_identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.base import TeacherPrecision
    from usjepa.cache.teacher.model_input import ModelInput

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_PURE = {"bf16-pure": torch.bfloat16, "fp16-pure": torch.float16}


class Teacher(Protocol):
    """Everything that building, planning, auditing, repairing and evaluating need of a teacher.

    It never changes once it is made: the same pixels give the same latents, up to rounding by batch size and device.
    """

    @property
    def name(self) -> str:
        """Name of its layer, `latents/<name>`."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across; their product is T."""
        ...

    @property
    def dim(self) -> int:
        """Width D of a latent."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its latents come out."""
        ...

    @property
    def compute(self) -> TeacherPrecision:
        """Precision of the forward pass; it decides the tolerance of rechecks and audits."""
        ...

    @property
    def identity(self) -> dict[str, Json]:
        """Hard identity: everything that changes its latents, the weights by content."""
        ...

    @property
    def soft(self) -> dict[str, Json]:
        """Soft identity: versions and device, recorded with every shard and never in the way."""
        ...

    @property
    def warning(self) -> str | None:
        """What a person must read before trusting it; none: nothing."""
        ...

    def __call__(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Return patch tokens, float32 [B, T, D] on the device, row-major over the grid, without gradient.

        Args:
            pixels_BCSS: uint8 [B, C, S, S] as stored, C = 1 grey or 3 colour, on any device.
        """
        ...


@dataclass(frozen=True)
class ModuleTeacher:
    """A torch module as a teacher: frozen, in eval mode, moved to its device."""

    name: str
    model: torch.nn.Module
    """Takes float32 [B, channels, size, size] as `input` makes it, gives [B, T, D]."""
    input: ModelInput
    identity: dict[str, Json]
    grid: tuple[int, int]
    dim: int
    device: torch.device
    compute: TeacherPrecision = "fp32"
    warning: str | None = None
    compiled: bool = False
    """Run the forward pass through torch.compile."""
    _forward: Callable[[torch.Tensor], torch.Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False).to(self.device, _PURE.get(self.compute))
        object.__setattr__(self, "_forward", torch.compile(self.tokens) if self.compiled else self.tokens)

    @property
    def soft(self) -> dict[str, Json]:
        """Versions of torch, timm and usjepa, and the device."""
        return soft_identity(self.device)

    def tokens(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the model's patch tokens [B, T, D] of its own input."""
        tokens_BTD: torch.Tensor = self.model(x_BCSS)
        return tokens_BTD

    def __call__(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Return patch tokens, float32 [B, T, D], of uint8 [B, C, S, S], without gradient."""
        with torch.no_grad(), self._precision():
            x_BCSS = self.input(pixels_BCSS, self.device).to(_PURE.get(self.compute, torch.float32))
            tokens_BTD = self._forward(x_BCSS)
        return tokens_BTD.to(torch.float32)

    def _precision(self) -> AbstractContextManager[Any]:
        dtype = _AUTOCAST.get(self.compute)
        return torch.autocast(self.device.type, dtype) if dtype is not None else nullcontext()
