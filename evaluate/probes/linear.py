"""Train the paper's linear probe, all seeds at once: a softmax regression by AdamW.

Protocol (arXiv 2602.19322, linear probing): random linear layer, AdamW, cross-entropy, cosine annealing, early
stopping on the validation loss, five seeds. docs/evaluation.md lists what the paper leaves open. The seeds share
nothing but the features, so they run as one batched problem with the gradient written out: the gradient of
cross-entropy by the logits is softmax minus one-hot. A test holds it against one autograd loop per seed.

Shape suffixes: S seeds, N training frames, V validation frames, B frames of a batch, F features, G = F + 1 features and
bias, C classes, M frames that one seed may see.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.randomness import keyed_generator
from usjepa.evaluate.probes.base import PRIMARY, Part, Predictions, ProbeInput, ProbeRecord, classes_of
from usjepa.evaluate.scores.calibration import calibrate
from usjepa.evaluate.scores.metrics import softmax

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import EvaluateSettings

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class TrainedProbes:
    """The probes of all seeds, each at its best epoch."""

    weight: torch.Tensor
    """[S, F, C]"""
    bias: torch.Tensor
    """[S, C]"""
    best_epoch: tuple[int, ...]
    """Per seed, the epoch (from 1) whose weights were kept."""
    epochs: tuple[int, ...]
    """Per seed, epochs trained."""

    def logits(self, features_NF: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [S, N, C]."""
        x = torch.from_numpy(np.ascontiguousarray(features_NF))
        out: NDArray[np.float32] = (x @ self.weight + self.bias[:, None]).numpy()
        return out


def first_weights(seed: int, features: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight [F, C] and bias [C] of an untrained probe: torch.nn.Linear's uniform range."""
    bound = 1.0 / math.sqrt(features)
    draw = keyed_generator(seed, 0x70726F6265).uniform(-bound, bound, (features + 1, classes))
    both = torch.from_numpy(draw.astype(np.float32))
    return both[:-1].clone(), both[-1].clone()


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order of the training frames in an epoch, int64 [count]: a pure function of its arguments."""
    order = keyed_generator(seed, epoch + 1).permutation(count)
    return order.astype(np.int64)


def learning_rate(settings: EvaluateSettings, epoch: int) -> float:
    """Return the rate of an epoch (from 0): cosine annealing to 0 over the most epochs, one value per epoch."""
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * epoch / settings.epochs))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in this thread alone.

    A probe's steps are too small to share: on two busy cores two threads wait for each other at every operation (101 s
    where one took 0.5 s, measured). And sums that aren't split give the same numbers on any number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class LinearProbe:
    """The paper's probe, by which encoders are ranked and compared."""

    name = PRIMARY
    version = 1
    described = ProbeRecord(
        title="Linear probe",
        column="probe",
        meaning="",
        shown=("macro_f1", "balanced_accuracy", "auroc"),
        caption="linear probes on frozen features",
    )

    def score(self, given: ProbeInput) -> Predictions:
        """Return the predictions of all seeds and how calibrated they are."""
        probes = train_probes(given.train, given.validation, given.classes, given.settings)
        logits_SNC = probes.logits(given.test.x)
        held_SVC = probes.logits(given.validation.x)
        return Predictions(
            classes_of(logits_SNC),
            softmax(logits_SNC),
            about={"best_epoch": list(probes.best_epoch), "epochs": list(probes.epochs)},
            calibration=calibrate(logits_SNC, given.test.y, held_SVC, given.validation.y),
            predict=lambda features_NF: classes_of(probes.logits(features_NF)),
        )


def train_probes(
    train: Part, validation: Part, classes: int, settings: EvaluateSettings, subsets_SM: NDArray[np.int64] | None = None
) -> TrainedProbes:
    """Train `settings.seeds` probes on standardised features; without validation frames each runs all its epochs.

    Args:
        train: the training frames.
        validation: the frames that early stopping looks at; may be empty.
        classes: how many there are.
        settings: the protocol.
        subsets_SM: the training frames that each seed may see, positions in them; None: all of them.
    """
    if subsets_SM is None:
        subsets_SM = np.broadcast_to(np.arange(len(train)), (settings.seeds, len(train)))
    with one_thread():
        training = _Training(torch.from_numpy(train.x), torch.from_numpy(train.y), classes, settings)
        watch = _EarlyStop(training, settings.patience)
        x_VF, y_V = torch.from_numpy(validation.x), torch.from_numpy(validation.y)
        for epoch in range(settings.epochs):
            orders = np.stack([rows[epoch_order(s, epoch, len(rows))] for s, rows in enumerate(subsets_SM)])
            training.epoch(torch.from_numpy(orders), learning_rate(settings, epoch))
            loss_S = training.loss(x_VF, y_V) if len(y_V) else torch.full((settings.seeds,), -float(epoch))
            if watch.stopped(epoch + 1, loss_S):
                break
        return watch.best()


class _Training:
    """Weights, Adam moments and the step of all seeds: tensors lead with S.

    AdamW is written out, as torch.optim.AdamW takes longer: see docs/evaluation.md. A test holds the two to the same
    weights. Weights lie as [S, C, G], features last: with 3 to 9 classes the products of a step are five times as fast
    as with [S, G, C] (measured, one thread).
    """

    def __init__(self, x_NF: torch.Tensor, y_N: torch.Tensor, classes: int, settings: EvaluateSettings) -> None:
        self.settings = settings
        # A column of ones makes the bias one more weight: AdamW treats both alike, weight decay included.
        self.x_NG = torch.cat([x_NF, torch.ones(len(x_NF), 1)], dim=1)
        self.onehot_NC = torch.nn.functional.one_hot(y_N, classes).float()
        first = [first_weights(seed, x_NF.shape[1], classes) for seed in range(settings.seeds)]
        self.weights_SCG = torch.stack([torch.cat([weight, bias[None]]).T for weight, bias in first]).contiguous()
        self.first_moment = torch.zeros_like(self.weights_SCG)
        self.second_moment = torch.zeros_like(self.weights_SCG)
        self.steps = 0

    def epoch(self, orders_SM: torch.Tensor, lr: float) -> None:
        """Run one epoch, each seed in its own order; the last batch is short rather than dropped."""
        for batch_SB in torch.split(orders_SM, self.settings.batch_size, dim=1):
            shape, flat = batch_SB.shape, batch_SB.reshape(-1)
            x_SBG = self.x_NG.index_select(0, flat).view(*shape, -1)
            onehot_SBC = self.onehot_NC.index_select(0, flat).view(*shape, -1)
            logits_SCB = torch.bmm(self.weights_SCG, x_SBG.transpose(1, 2))
            error_SCB = torch.softmax(logits_SCB, dim=1) - onehot_SBC.transpose(1, 2)
            self._adamw(torch.bmm(error_SCB.div_(shape[1]), x_SBG), lr)

    def _adamw(self, gradient_SCG: torch.Tensor, lr: float) -> None:
        self.steps += 1
        self.weights_SCG.mul_(1.0 - lr * self.settings.weight_decay)
        self.first_moment.lerp_(gradient_SCG, 1.0 - _BETA1)
        self.second_moment.mul_(_BETA2).addcmul_(gradient_SCG, gradient_SCG, value=1.0 - _BETA2)
        denominator = (self.second_moment / (1.0 - _BETA2**self.steps)).sqrt_().add_(_EPSILON)
        self.weights_SCG.addcdiv_(self.first_moment, denominator, value=-lr / (1.0 - _BETA1**self.steps))

    def loss(self, x_VF: torch.Tensor, y_V: torch.Tensor) -> torch.Tensor:
        """Return each seed's mean cross-entropy on other rows, [S]."""
        logits_SCV = self.weights_SCG[:, :, :-1] @ x_VF.T + self.weights_SCG[:, :, -1:]
        chosen_SV = logits_SCV.gather(1, y_V.expand(len(logits_SCV), 1, -1))[:, 0]
        return (logits_SCV.logsumexp(dim=1) - chosen_SV).mean(dim=1)


class _EarlyStop:
    """Keep each seed's weights of its lowest validation loss; a seed that has stopped keeps them."""

    def __init__(self, training: _Training, patience: int) -> None:
        seeds = len(training.weights_SCG)
        self._training = training
        self._patience = patience
        self._kept = training.weights_SCG.clone()
        self._lowest = torch.full((seeds,), float("inf"))
        self._best_epoch = [0] * seeds
        self._epochs = [0] * seeds

    def stopped(self, epoch: int, loss_S: torch.Tensor) -> bool:
        """Take note of an epoch's losses; True once every seed has run out of patience."""
        for seed, loss in enumerate(loss_S.tolist()):
            if self._done(seed):
                continue
            self._epochs[seed] = epoch
            if loss < float(self._lowest[seed]):
                self._lowest[seed] = loss
                self._best_epoch[seed] = epoch
                self._kept[seed] = self._training.weights_SCG[seed]
        return all(self._done(seed) for seed in range(len(self._epochs)))

    def _done(self, seed: int) -> bool:
        return self._epochs[seed] - self._best_epoch[seed] >= self._patience

    def best(self) -> TrainedProbes:
        """Return the kept weights."""
        return TrainedProbes(
            self._kept[:, :, :-1].transpose(1, 2).contiguous(),
            self._kept[:, :, -1].contiguous(),
            tuple(self._best_epoch),
            tuple(self._epochs),
        )
