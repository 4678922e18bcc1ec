"""Define what an encoder is: stored rows in, one float32 vector per frame out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch


STUDENT = "student"
"""Key of the run's own encoder."""


class Encoder(Protocol):
    """Turns stored rows into features."""

    @property
    def name(self) -> str:
        """Its name in progress and errors."""
        ...

    @property
    def pooling(self) -> str:
        """How a frame becomes one vector."""
        ...

    @property
    def given(self) -> str:
        """Its input: size, channels, normalisation."""
        ...

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that its features depend on, beside the frames."""
        ...

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the store that it reads."""
        ...

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return float32 [B, F]."""
        ...
