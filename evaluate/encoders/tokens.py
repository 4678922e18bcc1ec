"""Give the patch tokens of frozen encoders, kept like any features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from usjepa.evaluate.encoders.models import ModelEncoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.encoders.features import KeptFeatures
    from usjepa.evaluate.tasks.task import Task


@runtime_checkable
class TokenGiver(Protocol):
    """An encoder that gives patch tokens too."""

    def tokens(self, batch: Batch) -> NDArray[np.float32]:
        """Return float32 [B, H, W, D]."""
        ...


@dataclass
class _FlatTokens:
    """An encoder's patch tokens as features of one row, so that they are kept and resumed like any features."""

    encoder: Encoder
    grid: tuple[int, int] = field(default=(0, 0))
    """Rows and columns of patches, known once tokens were computed."""

    def __post_init__(self) -> None:
        self.name, self.pooling, self.layers = self.encoder.name, "none: patch tokens", self.encoder.layers
        self.given = self.encoder.given

    @property
    def identity(self) -> dict[str, Json]:
        """The encoder's, marked as that of its tokens."""
        return {"kind": "patch tokens", "encoder": self.encoder.identity}

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return float32 [B, H * W * D]."""
        assert isinstance(self.encoder, TokenGiver)
        tokens = self.encoder.tokens(batch)
        self.grid = (tokens.shape[1], tokens.shape[2])
        return tokens.reshape(len(tokens), -1)


def _gives_tokens(encoder: Encoder) -> bool:
    """Return whether an encoder has patch tokens on a grid."""
    if isinstance(encoder, ModelEncoder):
        from usjepa.cache.teacher.timm_models import is_vit

        return is_vit(encoder.model)
    return isinstance(encoder, TokenGiver)


class TokenSource:
    """An encoder's patch tokens of a task's frames, computed once and kept."""

    def __init__(self, encoder: Encoder, kept: KeptFeatures) -> None:
        self._encoder, self._flat, self._kept = encoder, _FlatTokens(encoder), kept

    @property
    def available(self) -> bool:
        """Whether the encoder has patch tokens; loads its model."""
        return _gives_tokens(self._encoder)

    def tokens(self, task: Task) -> NDArray[np.float32]:
        """Return the patch tokens of a task's frames, float32 [n, H, W, D]."""
        flat = self._kept.features(self._flat, task)
        if self._flat.grid == (0, 0):  # kept by an earlier call: one frame shows the grid
            self._flat.features(task.store.read(task.rows[:1], layers=self._flat.layers))
        return flat.reshape(len(flat), *self._flat.grid, -1)
