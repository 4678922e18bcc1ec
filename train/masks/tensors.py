"""Hold the masks of a batch as tensors on the device of the model.

Shape suffixes: B images, N context length, M target blocks, P target length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

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

    def asked(self, copies: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which patches are predicted, int64 [B, M + copies, L], and which of them count, bool.

        Args:
            copies: how often the context stands behind the M target blocks; 0: L is P and nothing is copied.
        """
        if not copies:
            return self.targets_BMP, self.targets_valid_BMP
        pairs = ((self.targets_BMP, self.context_BN), (self.targets_valid_BMP, self.context_valid_BN))
        patches, valid = (beside(one, other[:, None].expand(-1, copies, -1)) for one, other in pairs)
        return patches, valid

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return the four tensors."""
        return self.context_BN, self.context_valid_BN, self.targets_BMP, self.targets_valid_BMP


def beside(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return blocks [B, M, P, ...] with blocks [B, K, N, ...] behind them, padded with 0 to the longer of P and N."""
    longest = max(first.shape[2], second.shape[2])
    padded = [
        functional.pad(one, (*(0, 0) * (one.ndim - 3), 0, longest - one.shape[2])) if one.shape[2] < longest else one
        for one in (first, second)
    ]
    return torch.cat(padded, dim=1)
