"""Hold the masks of a batch as tensors on the device of the model.

Shape suffixes: B images, N context length, M target blocks, P target length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from usjepa.train.masks.groups import Group, groups_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.train.masks.multiblock import Masks


@dataclass(frozen=True)
class MaskTensors:
    """The masks of B usable images; patch indices are padded with 0 where the validity is False."""

    context_BN: torch.Tensor
    """int64"""
    context_valid_BN: torch.Tensor
    """bool"""
    targets_BMP: torch.Tensor
    """int64"""
    targets_valid_BMP: torch.Tensor
    """bool"""
    groups: tuple[Group, ...]
    """Images that are computed together; none in an empty batch."""

    @classmethod
    def of(cls, masks: Masks, send: Callable[[NDArray[Any]], torch.Tensor] = torch.from_numpy) -> MaskTensors:
        """Return the tensors of masks; `send` copies one array to the device."""
        return cls(
            send(masks.context_BN),
            send(masks.context_valid_BN),
            send(masks.targets_BMP),
            send(masks.targets_valid_BMP),
            groups_of(masks),
        )

    def __len__(self) -> int:
        return len(self.context_BN)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return the four tensors."""
        return self.context_BN, self.context_valid_BN, self.targets_BMP, self.targets_valid_BMP
