"""Define a frozen teacher: stored pixels in, patch tokens out, and its identity.

Several blocks of one model are several teachers, each with a name, a layer and an identity of its own, that one forward
pass serves. A build computes passes; whoever needs one layer alone asks its teacher.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from usjepa.cache.teacher.device import soft_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


class Pass(Protocol):
    """One forward pass, and the teachers that it serves: one, or one for each block that is asked for."""

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """Whose latents it gives; their names differ."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the latents come out."""
        ...

    def __call__(self, pixels_BCSS: torch.Tensor, wanted: Sequence[int] | None = None) -> list[torch.Tensor]:
        """Return latents, each float32 [B, T, D] with the very bits that its teacher gives alone for these pixels.

        Args:
            pixels_BCSS: uint8 [B, C, S, S] as stored.
            wanted: places in `teachers`, ascending; none: all of them.
        """
        ...


@dataclass(frozen=True)
class Alone:
    """The pass of a single teacher."""

    teacher: Teacher

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The teacher."""
        return (self.teacher,)

    @property
    def device(self) -> torch.device:
        """The teacher's."""
        return self.teacher.device

    def __call__(self, pixels_BCSS: torch.Tensor, wanted: Sequence[int] | None = None) -> list[torch.Tensor]:
        """Return the teacher's latents, or nothing where none are wanted."""
        return [self.teacher(pixels_BCSS)] if wanted is None or len(wanted) else []


@dataclass(frozen=True)
class Sharing:
    """One of the teachers of a pass, as a teacher: asked alone it runs the pass for itself."""

    name: str
    grid: tuple[int, int]
    dim: int
    identity: dict[str, Json]
    compute: TeacherPrecision
    warning: str | None
    place: int
    """In the pass."""
    of: Pass = field(repr=False)

    @property
    def device(self) -> torch.device:
        """Where its latents come out."""
        return self.of.device

    @property
    def soft(self) -> dict[str, Json]:
        """Versions of torch, timm and usjepa, and the device."""
        return soft_identity(self.device)

    def __call__(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Return patch tokens, float32 [B, T, D], of uint8 [B, C, S, S], without gradient."""
        return self.of(pixels_BCSS, [self.place])[0]


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
        with torch.no_grad(), self.precision():
            tokens_BTD = self._forward(self.given(pixels_BCSS))
        return tokens_BTD.to(torch.float32)

    def given(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the model's input [B, channels, size, size] of uint8 [B, C, S, S], in the precision of its weights."""
        return self.input(pixels_BCSS, self.device).to(_PURE.get(self.compute, torch.float32))

    def precision(self) -> AbstractContextManager[Any]:
        """Compute in the teacher's precision, within a `with` block."""
        dtype = _AUTOCAST.get(self.compute)
        return torch.autocast(self.device.type, dtype) if dtype is not None else nullcontext()
