"""The attentive probe: one learned query attends over frozen patch tokens, and a linear layer reads what it gathered.

The form is the cross-attention pooling that V-JEPA (arXiv 2404.08471) and CAPI (arXiv 2502.08769) evaluate frozen
encoders with, without the MLP and the residual around it. What the linear probe gets by averaging, this one may pick:
a finding that fills three patches of 196 is lost in a mean.

The query never changes between frames, so that the key projection folds into it: a head's score of a token x is
(K_h' q_h) . x / sqrt(d). And because attention weights sum to one, values are taken of the weighted mean of the tokens
rather than of each token. Both are the same numbers as the textbook's form (a test holds them to
`torch.nn.MultiheadAttention`), at a two-hundredth of the products. Biases of keys and values would change nothing: the
first cancel in the softmax, the second are the linear layer's.

Shape suffixes: B frames, T patch tokens, D features, H heads, E features of a head, C classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.randomness import keyed_generator
from usjepa.evaluate.probes.fitting import fit
from usjepa.evaluate.probes.linear import first_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import EvaluateSettings

HEAD = 64
"""Features of an attention head, as in vision transformers: ViT-Ti has 3 of them, ViT-B 12."""
_QUERY_DEVIATION = 0.02
"""Of the untrained query, timm's for learned tokens: attention begins nearly even, as the mean does."""
_TAG = 0x617474
_AT_ONCE = 128


class AttentiveProbe(torch.nn.Module):
    """One query, multi-head cross-attention, linear classifier."""

    def __init__(self, features: int, classes: int, seed: int) -> None:
        super().__init__()
        draw = keyed_generator(seed, _TAG)
        bound = 1.0 / math.sqrt(features)
        heads = heads_of(features)
        shape = (heads, features // heads, features)

        def parameter(values: NDArray[np.float64]) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.from_numpy(values.astype(np.float32)))

        self.query_HE = parameter(draw.normal(0.0, _QUERY_DEVIATION, shape[:2]))
        self.key_HED = parameter(draw.uniform(-bound, bound, shape))
        self.value_HED = parameter(draw.uniform(-bound, bound, shape))
        weight, bias = first_weights(seed, features, classes)
        self.weight_DC, self.bias_C = torch.nn.Parameter(weight), torch.nn.Parameter(bias)

    def attention(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Return how much of each token a head takes, [B, H, T]; sums to 1 over tokens."""
        asked_HD = torch.einsum("he,hed->hd", self.query_HE, self.key_HED) / math.sqrt(self.query_HE.shape[1])
        return torch.softmax(torch.nn.functional.linear(x_BTD, asked_HD), dim=1).transpose(1, 2)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Return logits, [B, C]."""
        gathered_BHD = torch.bmm(self.attention(x_BTD), x_BTD)
        values_BHE = torch.einsum("bhd,hed->bhe", gathered_BHD, self.value_HED)
        return values_BHE.flatten(1) @ self.weight_DC + self.bias_C

    @torch.no_grad()
    def logits(self, x_NTD: torch.Tensor) -> torch.Tensor:
        """Return logits of any number of frames, a few at once, [N, C]."""
        return torch.cat([self(some) for some in torch.split(x_NTD, _AT_ONCE)])


def heads_of(features: int) -> int:
    """Return how many heads share the features: of 64 each, or of the next larger share that divides them."""
    return next(heads for heads in range(max(1, features // HEAD), 0, -1) if features % heads == 0)


def train_attentive(
    tokens_NTD: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    held_VTD: NDArray[np.float32],
    held_labels_V: NDArray[np.int64],
    classes: int,
    settings: EvaluateSettings,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> tuple[AttentiveProbe, int, int]:
    """Train a probe on standardised tokens by the linear probe's protocol.

    Args:
        tokens_NTD: of the training frames.
        labels_N: their classes, 0 to classes - 1.
        held_VTD: of the frames that early stopping looks at; may be none, then every epoch is run.
        held_labels_V: their classes.
        classes: how many there are.
        settings: the protocol.
        seed: of first weights and order.
        check: called before every epoch; may raise to stop.

    Returns:
        The probe, the epoch whose weights it has, and how many were run.
    """
    probe = AttentiveProbe(tokens_NTD.shape[2], classes, seed)
    x, y, held, held_y = (torch.from_numpy(part) for part in (tokens_NTD, labels_N, held_VTD, held_labels_V))

    def loss_of(some: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(probe(x[some]), y[some])

    def held_loss() -> float:
        return float(torch.nn.functional.cross_entropy(probe.logits(held), held_y))

    best, epochs = fit(
        list(probe.parameters()), len(y), loss_of, held_loss if len(held_y) else None, settings, seed, check
    )
    return probe, best, epochs
