"""Train an attentive head that predicts a number from frozen patch tokens.

The attentive probe's query and its protocol; the loss is the mean squared error of numbers standardised by the training
split. A cavity that fills twenty patches of 196 is lost in a mean; here the head may look at it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.evaluate.probes.attentive import AttentivePooling, flat_tokens, pieces_of
from usjepa.evaluate.probes.base import NotScoredError, ProbeRecord
from usjepa.evaluate.probes.fitting import Fitting
from usjepa.evaluate.probes.linear import one_thread
from usjepa.evaluate.probes.regression import Numbers
from usjepa.evaluate.probes.scaler import fit_token_scaler, scale_in_place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.evaluate.probes.regression import NumberInput, NumberPart

_HELD_SHARE = 4
"""Validation frames are at most a quarter of the training frames."""


class AttentiveNumbers:
    """A head on patch tokens of a bounded number of frames, evenly spaced; every test frame is predicted."""

    name = "attentive"
    described = ProbeRecord(
        title="Attentive head",
        column="attentive",
        meaning="A head that first learns which parts of the frame to look at, in place of their plain average, and "
        "then predicts the number.",
        shown=("mae", "rmse", "r2", "pearson"),
        caption="attentive heads on frozen patch tokens",
    )

    def predict(self, given: NumberInput) -> Numbers:
        """Return the predictions of all seeds; NotScoredError where the encoder has no patch tokens."""
        if given.settings.gather == "features":
            raise NotScoredError("it would need patch tokens, and means over frames have none.")
        if given.tokens is None or not given.tokens.available:
            raise NotScoredError("it gives no patch tokens.")
        settings, read = given.settings, given.tokens.tokens
        most = settings.attentive_frames
        train = _thinned(given.train, most)
        held = _thinned(given.validation, max(1, most // _HELD_SHARE))
        x_NTD = flat_tokens(read(given.train.frames.only(train)))
        scaler = fit_token_scaler(x_NTD)
        x_NTD = scale_in_place(x_NTD, scaler)
        held_VTD = x_NTD[:0]
        if len(held):
            held_VTD = scale_in_place(flat_tokens(read(given.validation.frames.only(held))), scaler)
        truth = given.train.y[train]
        middle, scale = float(truth.mean()), float(truth.std()) or 1.0
        y, held_y = ((part - middle) / scale for part in (truth, given.validation.y[held]))
        with one_thread():
            trained = [_train((x_NTD, y), (held_VTD, held_y), Fitting(settings, s)) for s in range(settings.seeds)]
            parts = []
            for some in pieces_of(given.test.frames, np.arange(len(given.test))):
                tokens = torch.from_numpy(scale_in_place(flat_tokens(read(some)), scaler))
                parts.append(np.stack([model.logits(tokens)[:, 0].numpy() for model, _, _ in trained]))
        about = {
            "best_epoch": [best for _, best, _ in trained],
            "epochs": [epochs for _, _, epochs in trained],
            "training_frames": len(train),
            "validation_frames": len(held),
        }
        predicted_SN = np.concatenate(parts, axis=1).astype(np.float64) * scale + middle
        return Numbers(predicted_SN, about=about)


def _thinned(part: NumberPart, most: int) -> NDArray[np.int64]:
    """Return the positions of at most so many frames, evenly spaced."""
    count = len(part)
    return np.arange(min(count, most)) * count // max(1, min(count, most))


def _train(
    train: tuple[NDArray[np.float32], NDArray[np.float64]],
    held: tuple[NDArray[np.float32], NDArray[np.float64]],
    fitting: Fitting,
) -> tuple[AttentivePooling, int, int]:
    """Return a head of one seed, its best epoch and how many were run."""
    model = AttentivePooling(train[0].shape[2], 1, fitting.seed)
    x, held_x = torch.from_numpy(train[0]), torch.from_numpy(held[0])
    y, held_y = (torch.from_numpy(part[1].astype(np.float32)) for part in (train, held))

    def loss_of(some: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(model(x[some])[:, 0], y[some])

    def held_loss() -> float:
        return float(torch.nn.functional.mse_loss(model.logits(held_x)[:, 0], held_y))

    best, epochs = fitting.run(list(model.parameters()), len(y), loss_of, held_loss if len(held_y) else None)
    return model, best, epochs
