"""Say how latents are stored: at what precision, on how many axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from usjepa.cache.coding.nibbles import packed_width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usjepa.cache.identity import Json

LatentPrecision = Literal["fp32", "fp16", "int8", "int4"]
QUANTISER_VERSION: dict[LatentPrecision, int] = {"fp32": 1, "fp16": 1, "int8": 2, "int4": 1}
"""Part of a layer's hard identity; int8 version 2: |mean| + 3 standard deviations in place of the root mean square."""
PROJECTION_VERSION = 1
"""Part of the hard identity of a layer on axes."""
_DTYPE: dict[LatentPrecision, str] = {"fp32": "float32", "fp16": "float16", "int8": "int8", "int4": "uint8"}


@dataclass(frozen=True)
class Form:
    """A precision, and on how many principal axes; equal forms of one teacher take the same bytes."""

    precision: LatentPrecision
    axes: int | None = None
    """K; None: all channels."""

    def __str__(self) -> str:
        return self.precision if self.axes is None else f"{self.precision} on {self.axes} axes"

    @property
    def suffix(self) -> str:
        """What is put behind a teacher's name for a layer of this form."""
        return self.precision if self.axes is None else f"{self.precision}-axes{self.axes}"

    @property
    def dtype(self) -> str:
        """NumPy name of what an array of it holds; int4 is two values in a byte."""
        return _DTYPE[self.precision]

    @property
    def packed(self) -> bool:
        """Whether two values share a byte."""
        return self.precision == "int4"

    @property
    def scaled(self) -> bool:
        """Whether tokens have a scale each, in a layer of their own."""
        return self.precision in ("int8", "int4")

    @property
    def coded(self) -> bool:
        """Whether rows are not [T, D] values, so that the layer needs a coding."""
        return self.packed or self.axes is not None

    @property
    def calibrated(self) -> bool:
        """Whether something has to be found in a sample before the first row is stored."""
        return self.scaled or self.coded

    def row_shape(self, tokens: int, dim: int) -> tuple[int, int]:
        """Return the shape of a row in its array, of T tokens of D channels."""
        width = self.axes or dim
        return tokens, packed_width(width) if self.packed else width

    def row_nbytes(self, tokens: int, dim: int) -> int:
        """Return the bytes of a row, without the tokens' scales."""
        _, width = self.row_shape(tokens, dim)
        return tokens * width * np.dtype(self.dtype).itemsize

    def identity(self) -> dict[str, Json]:
        """Return its part of a layer's hard identity; without axes what it was before there were any."""
        found: dict[str, Json] = {"precision": self.precision, "quantiser": QUANTISER_VERSION[self.precision]}
        return found if self.axes is None else {**found, "axes": self.axes, "projection": PROJECTION_VERSION}


def form_of(identity: Mapping[str, Json]) -> Form:
    """Return the form that a layer's hard identity names."""
    return Form(identity["precision"], identity.get("axes"))
