"""A linear head on frozen patch tokens, and the Dice of what it says of every pixel.

Trained on patches: the target of a patch is the share of each class in its pixels, so that the cross-entropy is that of
all pixels when every pixel of a patch is given the patch's logits. Tested on pixels: logits are enlarged bilinearly to
the mask's size. AdamW, cosine and early stopping are the classification probe's.

Shape suffixes: N frames, H and W rows and columns of patches, S edge of a mask, D features, K classes, P patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.evaluate.probes.fitting import fit
from usjepa.evaluate.probes.linear import first_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import EvaluateSettings


@dataclass(frozen=True)
class Head:
    """A trained head."""

    weight: torch.Tensor
    """[D, K]"""
    bias: torch.Tensor
    """[K]"""
    epochs: int
    """Trained."""

    def predict(self, tokens_NHWD: NDArray[np.float32], edge: int) -> NDArray[np.uint8]:
        """Return the class of every pixel, uint8 [N, edge, edge]."""
        logits = torch.from_numpy(tokens_NHWD) @ self.weight + self.bias
        enlarged = torch.nn.functional.interpolate(logits.permute(0, 3, 1, 2), (edge, edge), mode="bilinear")
        classes: NDArray[np.uint8] = enlarged.argmax(dim=1).to(torch.uint8).numpy()
        return classes


def class_shares(masks_NSS: NDArray[np.uint8], grid: tuple[int, int], classes: int) -> NDArray[np.float32]:
    """Return the share of each class in the pixels of each patch, float32 [N, H, W, K]; shares sum to 1."""
    shares = np.empty((len(masks_NSS), *grid, classes), np.float32)
    for number in range(classes):
        is_class = torch.from_numpy(masks_NSS == number).float()[:, None]
        shares[..., number] = torch.nn.functional.adaptive_avg_pool2d(is_class, grid)[:, 0].numpy()
    return shares


def train_head(
    tokens_NHWD: NDArray[np.float32],
    shares_NHWK: NDArray[np.float32],
    validation_VHWD: NDArray[np.float32],
    validation_shares_VHWK: NDArray[np.float32],
    settings: EvaluateSettings,
    seed: int,
) -> Head:
    """Train a head on standardised tokens; without validation frames it runs all its epochs."""
    classes = shares_NHWK.shape[-1]
    x, y = _flat(tokens_NHWD), _flat(shares_NHWK)
    held, held_y = _flat(validation_VHWD), _flat(validation_shares_VHWK)
    weight, bias = (torch.nn.Parameter(part) for part in first_weights(seed, tokens_NHWD.shape[-1], classes))

    def loss_of(some: torch.Tensor) -> torch.Tensor:
        return _loss(x[some] @ weight + bias, y[some])

    def held_loss() -> float:
        return float(_loss(held @ weight + bias, held_y))

    _, epochs = fit([weight, bias], len(x), loss_of, held_loss if len(held) else None, settings, seed)
    return Head(weight.detach(), bias.detach(), epochs)


def _flat(array: NDArray[np.float32]) -> torch.Tensor:
    """Return [N, patches, last axis]: a batch is whole frames."""
    return torch.from_numpy(np.ascontiguousarray(array)).flatten(1, 2)


def _loss(logits_NPK: torch.Tensor, shares_NPK: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy against shares, mean over patches."""
    return -(shares_NPK * torch.log_softmax(logits_NPK, dim=-1)).sum(dim=-1).mean()


def frame_dice(truth_NSS: NDArray[np.uint8], predicted_NSS: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Return the Dice of each frame and class but the background, float64 [N, K - 1].

    Twice the overlap over the sum of both areas. NaN where a class is neither there nor predicted: such a frame says
    nothing of it. 0 where it is only there, or only predicted.
    """
    dice = np.full((len(truth_NSS), classes - 1), np.nan)
    for number in range(1, classes):
        true, said = (masks.reshape(len(masks), -1) == number for masks in (truth_NSS, predicted_NSS))
        areas = true.sum(axis=1) + said.sum(axis=1)
        counted = areas > 0
        dice[counted, number - 1] = 2.0 * (true & said).sum(axis=1)[counted] / areas[counted]
    return dice
