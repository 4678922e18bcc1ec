"""Scores encoders on segmentation tasks: patch tokens, a linear head a seed, Dice with an interval over groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.randomness import keyed_generator
from usjepa.evaluate.encoders.tokens import FlatTokens, TokenSource
from usjepa.evaluate.probes.scaler import fit_token_scaler, scale_in_place
from usjepa.evaluate.probes.segmentation import Head, class_shares, frame_dice, train_head
from usjepa.evaluate.scores.metrics import spread
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.tasks.segmentation import Segmentation

MOST_TRAINING_FRAMES = 1000
"""Frames that heads are trained on, at most: evenly spaced over the training split. Tokens of all would not fit."""
MOST_VALIDATION_FRAMES = 250
_TESTED_AT_ONCE = 256
RESAMPLES = 1000
"""Of the bootstrap over groups."""


@dataclass(frozen=True)
class _Source:
    """A segmentation task's tokens."""

    tokens_of: TokenSource
    task: Segmentation

    def tokens(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 [n, H, W, D] of frames, computed once and kept."""
        return self.tokens_of.tokens(self.task.frames(positions))


def score_segmentation(
    encoder: Encoder,
    task: Segmentation,
    folder: Path,
    settings: EvaluateSettings,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Json]:
    """Return the Dice of linear heads on an encoder's patch tokens, as it goes into `scores.json`.

    Args:
        encoder: one for which `gives_tokens` holds.
        task: frames and masks.
        folder: where tokens are kept.
        settings: seeds, optimizer and early stopping, as for the classification probe.
        check: called before every batch; may raise to stop.
    """
    source = _Source(TokenSource(FlatTokens(encoder), folder, settings.encode_batch_size, check), task)
    train = _thinned(task.positions(TRAIN), MOST_TRAINING_FRAMES)
    held = _thinned(task.positions(VALIDATION), MOST_VALIDATION_FRAMES)
    heads, scale = _trained(source, train, held, settings, check)
    test = task.positions(TEST)
    parts = []
    for start in range(0, len(test), _TESTED_AT_ONCE):
        some = test[start : start + _TESTED_AT_ONCE]
        tokens, truth = scale(source.tokens(some)), task.read_masks(some)
        parts.append([frame_dice(truth, h.predict(tokens, truth.shape[-1]), len(task.classes)) for h in heads])
    dice = np.concatenate(parts, axis=1)
    told = {"epochs": [head.epochs for head in heads], "training_frames": len(train), "dim": len(heads[0].weight)}
    return {**_told(dice, task, test), **told}


def _trained(
    source: _Source,
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    settings: EvaluateSettings,
    check: Callable[[], None],
) -> tuple[list[Head], Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """Return a head a seed, and what standardises tokens by the training frames' mean and deviation."""
    task, classes = source.task, len(source.task.classes)
    tokens = source.tokens(train)
    scaler = fit_token_scaler(tokens)

    def scale(some: NDArray[np.float32]) -> NDArray[np.float32]:
        return scale_in_place(some, scaler)

    grid = (tokens.shape[1], tokens.shape[2])
    shares = class_shares(task.read_masks(train), grid, classes)
    held_tokens = scale(source.tokens(held)) if len(held) else tokens[:0]
    held_shares = class_shares(task.read_masks(held), grid, classes) if len(held) else shares[:0]
    scaled = scale(tokens)
    heads = []
    for seed in range(settings.seeds):
        check()
        heads.append(train_head(scaled, shares, held_tokens, held_shares, settings, seed))
    return heads, scale


def _thinned(positions: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many positions, evenly spaced."""
    if len(positions) <= most:
        return positions
    return positions[np.arange(most) * len(positions) // most]


def _told(dice_SNK: NDArray[np.float64], task: Segmentation, test: NDArray[np.int64]) -> dict[str, Json]:
    """Return means over frames by class and over classes, their spread over seeds, and an interval over groups."""
    by_class = {}
    for number, name in enumerate(task.classes[1:]):
        values = [_mean(seed[:, number]) for seed in dice_SNK]
        mean, deviation = spread(values)
        by_class[name] = {"mean": mean, "sd": deviation, "frames": int(np.isfinite(dice_SNK[0, :, number]).sum())}
    overall = [float(np.mean([_mean(seed[:, k]) for k in range(seed.shape[1])])) for seed in dice_SNK]
    mean, deviation = spread(overall)
    low, high = _interval(dice_SNK, task.groups[test])
    return {"dice": {"mean": mean, "sd": deviation, "seeds": overall, "low": low, "high": high}, "classes": by_class}


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the frames that count; 0 where a class is in no test frame and never predicted."""
    counted = values[np.isfinite(values)]
    return float(counted.mean()) if len(counted) else 0.0


def _interval(dice_SNK: NDArray[np.float64], groups_N: NDArray[np.int64]) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean Dice over test groups drawn anew with replacement."""
    _, number = np.unique(groups_N, return_inverse=True)
    count = int(number.max()) + 1
    mean_NK = np.where(np.isfinite(dice_SNK), dice_SNK, 0.0).sum(axis=0)
    counted_NK = np.isfinite(dice_SNK).sum(axis=0)
    total, seen = (np.zeros((count, dice_SNK.shape[2])) for _ in range(2))
    np.add.at(total, number, mean_NK)
    np.add.at(seen, number, counted_NK)
    draws = keyed_generator(count, 0x64696365).integers(0, count, (RESAMPLES, count))
    sums, counts = total[draws].sum(axis=1), seen[draws].sum(axis=1)
    means = (sums / np.maximum(counts, 1)).mean(axis=1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))
