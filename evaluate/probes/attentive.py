"""Train the attentive probe: a learned query gathers frozen patch tokens for a linear layer.

The form is the cross-attention pooling that V-JEPA (arXiv 2404.08471) and CAPI (arXiv 2502.08769) evaluate frozen
encoders with, without the MLP and the residual around it. The linear probe gets an average; this one may choose:
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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.randomness import keyed_generator
from usjepa.evaluate.probes.base import NotScoredError, Part, Predictions, ProbeInput, ProbeRecord, classes_of
from usjepa.evaluate.probes.fitting import Fitting
from usjepa.evaluate.probes.linear import first_weights, one_thread
from usjepa.evaluate.probes.scaler import fit_token_scaler, scale_in_place
from usjepa.evaluate.scores.metrics import softmax
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION, stratified_draw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from usjepa.evaluate.tasks.task import Task

_HEAD = 64
"""Features of an attention head, as in vision transformers: ViT-Ti has 3 of them, ViT-B 12."""
_QUERY_DEVIATION = 0.02
"""Of the untrained query, timm's for learned tokens: attention begins nearly even, as the mean does."""
_TAG = 0x617474
_AT_ONCE = 128
_TESTED_AT_ONCE = 256
_HELD_SHARE = 4
"""Validation frames are at most a quarter of the training frames."""


class AttentiveProbe:
    """A probe on patch tokens of a bounded number of frames, chosen class by class; every test frame is scored."""

    name = "attentive"
    version = 1
    described = ProbeRecord(
        title="Attentive probe",
        column="attentive",
        meaning="A classifier that first learns which parts of the frame to look at, in place of their plain average. "
        "It shows whether the encoder knows of a small finding that an average would drown.",
        shown=("macro_f1", "auroc"),
        summary="a probe that learns where to look",
        caption="attentive probes on frozen patch tokens",
    )

    def score(self, given: ProbeInput) -> Predictions:
        """Return the predictions of all seeds; NotScoredError where the encoder has no patch tokens."""
        if given.settings.gather == "features":
            raise NotScoredError("it would need patch tokens, and means over frames have none.")
        if given.tokens is None or not given.tokens.available:
            raise NotScoredError("it gives no patch tokens.")
        settings, read = given.settings, given.tokens.tokens
        most = settings.attentive_frames
        chosen = [_some(given.task, TRAIN, most), _some(given.task, VALIDATION, max(1, most // _HELD_SHARE))]
        x_NTD = flat_tokens(read(chosen[0]))
        scaler = fit_token_scaler(x_NTD)
        train = Part(scale_in_place(x_NTD, scaler), chosen[0].labels)
        held = Part(
            scale_in_place(flat_tokens(read(chosen[1])), scaler) if len(chosen[1]) else x_NTD[:0], chosen[1].labels
        )
        with one_thread():
            trained = [
                train_attentive(train, held, given.classes, Fitting(settings, seed)) for seed in range(settings.seeds)
            ]
            parts = []
            for some in pieces_of(given.task, given.task.positions(TEST)):
                tokens = torch.from_numpy(scale_in_place(flat_tokens(read(some)), scaler))
                parts.append(np.stack([one.model.logits(tokens).numpy() for one in trained]))
        logits_SNC = np.concatenate(parts, axis=1)
        about = {
            "best_epoch": [one.best_epoch for one in trained],
            "epochs": [one.epochs for one in trained],
            "training_frames": len(train),
            "validation_frames": len(held),
            "heads": _heads_of(x_NTD.shape[2]),
        }
        return Predictions(classes_of(logits_SNC), softmax(logits_SNC), about=about)


class AttentivePooling(torch.nn.Module):
    """One query, multi-head cross-attention, linear classifier."""

    def __init__(self, features: int, classes: int, seed: int) -> None:
        super().__init__()
        draw = keyed_generator(seed, _TAG)
        bound = 1.0 / math.sqrt(features)
        heads = _heads_of(features)
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
        query_HD = torch.einsum("he,hed->hd", self.query_HE, self.key_HED) / math.sqrt(self.query_HE.shape[1])
        return torch.softmax(torch.nn.functional.linear(x_BTD, query_HD), dim=1).transpose(1, 2)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Return logits, [B, C]."""
        gathered_BHD = torch.bmm(self.attention(x_BTD), x_BTD)
        values_BHE = torch.einsum("bhd,hed->bhe", gathered_BHD, self.value_HED)
        return values_BHE.flatten(1) @ self.weight_DC + self.bias_C

    @torch.no_grad()
    def logits(self, x_NTD: torch.Tensor) -> torch.Tensor:
        """Return logits of any number of frames, a few at once, [N, C]."""
        return torch.cat([self(some) for some in torch.split(x_NTD, _AT_ONCE)])


def _heads_of(features: int) -> int:
    """Return how many heads share the features: of 64 each, or of the next larger share that divides them."""
    return next(heads for heads in range(max(1, features // _HEAD), 0, -1) if features % heads == 0)


@dataclass(frozen=True)
class TrainedAttentive:
    """A probe of one seed and how it was trained."""

    model: AttentivePooling
    best_epoch: int
    """The epoch (from 1) whose weights it has."""
    epochs: int
    """How many were run."""


def train_attentive(train: Part, validation: Part, classes: int, fitting: Fitting) -> TrainedAttentive:
    """Train a probe on standardised tokens by the linear probe's protocol.

    Args:
        train: the training frames; x float32 [n, T, D].
        validation: the frames that early stopping looks at; may be empty, then every epoch is run.
        classes: how many there are.
        fitting: the protocol, and the seed of first weights and order.
    """
    model = AttentivePooling(train.x.shape[2], classes, fitting.seed)
    x, y, held, held_y = (torch.from_numpy(part) for part in (train.x, train.y, validation.x, validation.y))

    def loss_of(some: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(x[some]), y[some])

    def held_loss() -> float:
        return float(torch.nn.functional.cross_entropy(model.logits(held), held_y))

    best, epochs = fitting.run(list(model.parameters()), len(y), loss_of, held_loss if len(held_y) else None)
    return TrainedAttentive(model, best, epochs)


def _some(task: Task, split: str, most: int) -> Task:
    """Return the task with some of a split's frames only: at most about so many, drawn class by class."""
    where = task.positions(split)
    if len(where) > most:
        where = where[stratified_draw(task.labels[where], most / len(where), draw=0)]
    return task.only(where)


def pieces_of(task: Task, where: NDArray[np.int64]) -> Iterator[Task]:
    """Yield the frames at some positions, a few at once: tokens of all would not fit into memory."""
    for start in range(0, len(where), _TESTED_AT_ONCE):
        yield task.only(where[start : start + _TESTED_AT_ONCE])


def flat_tokens(tokens_NHWD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [n, T, D]."""
    return tokens_NHWD.reshape(len(tokens_NHWD), -1, tokens_NHWD.shape[-1])
