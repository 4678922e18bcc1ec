"""Train a linear head on frozen patch tokens and measure its Dice over pixels.

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

from usjepa.evaluate.probes.linear import first_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.evaluate.probes.fitting import Fitting


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


def mean_mask(masks_NSS: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """Return the class that most masks have at each pixel, uint8 [S, S]; equal counts go to the lower class.

    It is what can be said of a mask without looking at any image: where frames of one view are alike, it is much.
    """
    counts_KSS = np.stack([(masks_NSS == number).sum(axis=0) for number in range(classes)])
    most: NDArray[np.uint8] = counts_KSS.argmax(axis=0).astype(np.uint8)
    return most


@dataclass(frozen=True)
class Patches:
    """Patches of some frames."""

    tokens_NHWD: NDArray[np.float32]
    """Standardised."""
    shares_NHWK: NDArray[np.float32]
    """Of each class in the pixels of each patch."""

    def __len__(self) -> int:
        return len(self.shares_NHWK)


def train_head(train: Patches, validation: Patches, fitting: Fitting) -> Head:
    """Train a head; without validation frames it runs all its epochs."""
    features, classes = train.tokens_NHWD.shape[-1], train.shares_NHWK.shape[-1]
    x, y = _flat(train.tokens_NHWD), _flat(train.shares_NHWK)
    held, held_y = _flat(validation.tokens_NHWD), _flat(validation.shares_NHWK)
    weight, bias = (torch.nn.Parameter(part) for part in first_weights(fitting.seed, features, classes))

    def loss_of(some: torch.Tensor) -> torch.Tensor:
        return _loss(x[some] @ weight + bias, y[some])

    def held_loss() -> float:
        return float(_loss(held @ weight + bias, held_y))

    _, epochs = fitting.run([weight, bias], len(x), loss_of, held_loss if len(held) else None)
    return Head(weight.detach(), bias.detach(), epochs)


def _flat(array: NDArray[np.float32]) -> torch.Tensor:
    """Return [N, patches, last axis]: a batch is whole frames."""
    return torch.from_numpy(np.ascontiguousarray(array)).flatten(1, 2)


def _loss(logits_NPK: torch.Tensor, shares_NPK: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy against shares, mean over patches."""
    return -(shares_NPK * torch.log_softmax(logits_NPK, dim=-1)).sum(dim=-1).mean()


def frame_dice(truth_NSS: NDArray[np.uint8], predicted_NSS: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Return the Dice of each frame and class but the background, float64 [N, K - 1].

    Twice the overlap over the sum of both areas. NaN where a class is neither there nor predicted: such a frame does
    not count. 0 where it is only there, or only predicted.
    """
    dice = np.full((len(truth_NSS), classes - 1), np.nan)
    for number in range(1, classes):
        true, named = (masks.reshape(len(masks), -1) == number for masks in (truth_NSS, predicted_NSS))
        areas = true.sum(axis=1) + named.sum(axis=1)
        counted = areas > 0
        dice[counted, number - 1] = 2.0 * (true & named).sum(axis=1)[counted] / areas[counted]
    return dice
