"""Score encoders on segmentation: a linear head per seed on patch tokens, Dice over groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.randomness import keyed_generator
from usjepa.evaluate.probes.fitting import Fitting
from usjepa.evaluate.probes.scaler import fit_token_scaler, scale_in_place
from usjepa.evaluate.probes.segmentation import Patches, class_shares, frame_dice, mean_mask, train_head
from usjepa.evaluate.scores.bootstrap import interval
from usjepa.evaluate.scores.metrics import PackedNumbers, over_seeds, packed, unpacked
from usjepa.evaluate.scores.records import Interval, Record
from usjepa.evaluate.scores.regression import PackedFloats, packed_floats, unpacked_floats
from usjepa.evaluate.scores.units import Units
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.encoders.tokens import TokenSource
    from usjepa.evaluate.probes.scaler import Scaler
    from usjepa.evaluate.probes.segmentation import Head
    from usjepa.evaluate.scores.bootstrap import Draws
    from usjepa.evaluate.tasks.segmentation import Segmentation

_MOST_TRAINING_FRAMES = 1000
"""Frames that heads are trained on, at most: evenly spaced over the training split. Tokens of all would not fit."""
_MOST_VALIDATION_FRAMES = 250
_TESTED_AT_ONCE = 256
_RESAMPLES = 1000
"""Of the bootstrap over groups."""


class _WithEnds(Record):
    """A mean Dice."""

    mean: float
    low: float | None
    """Ends of the 95 % interval over test groups; None for one group alone."""
    high: float | None

    @property
    def interval(self) -> Interval | None:
        """Both ends."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class DiceRecord(_WithEnds):
    """Mean Dice over classes."""

    sd: float
    """Over seeds."""
    seeds: tuple[float, ...]


class ClassDice(Record):
    """Mean Dice of one class."""

    mean: float
    sd: float
    frames: int
    """Test frames that hold the class, or where the head of the first seed names it."""


class GroupDice(Record):
    """The Dice of one class by test group, in the order of the groups' first frames: what paired tests draw from."""

    sums: PackedFloats
    """Over a group's frames that count, and over seeds."""
    counts: PackedNumbers
    """Of these frames, likewise."""
    held: PackedNumbers = ""
    """A group's frames that hold the class; empty in documents of format 5."""


class SegmentationScores(Record):
    """The scores of one encoder on one segmentation task."""

    task: str
    encoder: str
    dice: DiceRecord
    classes: dict[str, ClassDice]
    """All that a test mask holds, but the background."""
    epochs: tuple[int, ...]
    """Each seed's."""
    training_frames: int
    dim: int
    """Features of a patch token."""
    by_group: tuple[GroupDice, ...] = ()
    """Of each of `classes`; empty in documents of format 4."""

    def drawn(self, draws: Draws) -> NDArray[np.float64]:
        """Return the mean Dice in each draw of the test groups, [R]; `draws` has a frame per group, in order."""
        sums = draws.sums(np.stack([unpacked_floats(one.sums) for one in self.by_group]))
        counts = draws.sums(np.stack([unpacked(one.counts).astype(np.float64) for one in self.by_group]))
        known = all(one.held for one in self.by_group)
        held = [unpacked(one.held).astype(np.float64) for one in self.by_group] if known else None
        # An earlier version's document counts every class in every draw.
        return _mean_of_held(sums, counts, counts + 1 if held is None else draws.sums(np.stack(held)))


class DiceFloor(_WithEnds):
    """The Dice of one and the same mask for every test frame: no image is looked at."""

    classes: dict[str, float]
    """All that a test mask holds, but the background."""
    training_frames: int
    """Whose masks it was made of."""


def floor_of(task: Segmentation) -> DiceFloor:
    """Return the Dice of the mean mask of the training frames: what an encoder must beat to have seen anything."""
    train, test = _thinned(task.positions(TRAIN), _MOST_TRAINING_FRAMES), task.positions(TEST)
    guess_SS = mean_mask(task.read_masks(train), len(task.classes))
    parts = []
    for start in range(0, len(test), _TESTED_AT_ONCE):
        truth = task.read_masks(test[start : start + _TESTED_AT_ONCE])
        parts.append(frame_dice(truth, np.broadcast_to(guess_SS, truth.shape), len(task.classes)))
    dice_SNK, held_NK = np.concatenate(parts)[None][..., task.tested - 1], task.held[test][:, task.tested]
    overall = _overall(dice_SNK, held_NK, task.groups[test])
    return DiceFloor(
        mean=overall.mean,
        low=overall.low,
        high=overall.high,
        classes={task.classes[one]: _mean(dice_SNK[0, :, at]) for at, one in enumerate(task.tested)},
        training_frames=len(train),
    )


def score_segmentation(
    name: str, task: Segmentation, tokens: TokenSource, settings: EvaluateSettings
) -> SegmentationScores:
    """Return the Dice of linear heads on an encoder's patch tokens.

    Args:
        name: of the encoder in `scores.json`.
        task: frames and masks.
        tokens: the encoder's.
        settings: seeds, optimizer and early stopping, as for the classification probe.
    """
    train = _thinned(task.positions(TRAIN), _MOST_TRAINING_FRAMES)
    held = _thinned(task.positions(VALIDATION), _MOST_VALIDATION_FRAMES)
    heads, scaler = _trained(task, tokens, (train, held), settings)
    test = task.positions(TEST)
    parts = []
    for start in range(0, len(test), _TESTED_AT_ONCE):
        some = test[start : start + _TESTED_AT_ONCE]
        scaled, truth = scale_in_place(tokens.tokens(task.frames(some)), scaler), task.read_masks(some)
        parts.append([frame_dice(truth, h.predict(scaled, truth.shape[-1]), len(task.classes)) for h in heads])
    dice_SNK = np.concatenate(parts, axis=1)[..., task.tested - 1]
    held_NK = task.held[test][:, task.tested]
    return SegmentationScores(
        task=task.name,
        encoder=name,
        dice=_overall(dice_SNK, held_NK, task.groups[test]),
        classes={task.classes[one]: _of_class(dice_SNK[:, :, at]) for at, one in enumerate(task.tested)},
        epochs=tuple(head.epochs for head in heads),
        training_frames=len(train),
        dim=len(heads[0].weight),
        by_group=_by_group(dice_SNK, held_NK, task.groups[test]),
    )


def _by_group(
    dice_SNK: NDArray[np.float64], held_NK: NDArray[np.bool_], groups_N: NDArray[np.int64]
) -> tuple[GroupDice, ...]:
    """Return what each test group adds to the Dice of each class."""
    index_N = Units.of(groups_N).index_N
    total_KN = np.where(np.isfinite(dice_SNK), dice_SNK, 0.0).sum(axis=0).T
    counted_KN = np.isfinite(dice_SNK).sum(axis=0).T
    return tuple(
        GroupDice(
            sums=packed_floats(np.bincount(index_N, total_N).astype(np.float64)),
            counts=packed(np.bincount(index_N, counted_N).astype(np.int64)),
            held=packed(np.bincount(index_N, held_N).astype(np.int64)),
        )
        for total_N, counted_N, held_N in zip(total_KN, counted_KN, held_NK.T, strict=True)
    )


def _trained(
    task: Segmentation,
    tokens: TokenSource,
    positions: tuple[NDArray[np.int64], NDArray[np.int64]],
    settings: EvaluateSettings,
) -> tuple[list[Head], Scaler]:
    """Return a head per seed, and what standardises tokens by the training frames' mean and deviation."""
    first = tokens.tokens(task.frames(positions[0]))
    scaler, grid = fit_token_scaler(first), (first.shape[1], first.shape[2])
    held = tokens.tokens(task.frames(positions[1])) if len(positions[1]) else first[:0]
    train, validation = (
        Patches(scale_in_place(one, scaler), class_shares(task.read_masks(some), grid, len(task.classes)))
        for one, some in zip((first, held), positions, strict=True)
    )
    return [train_head(train, validation, Fitting(settings, seed)) for seed in range(settings.seeds)], scaler


def _thinned(positions: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many positions, evenly spaced."""
    if len(positions) <= most:
        return positions
    return positions[np.arange(most) * len(positions) // most]


def _of_class(dice_SN: NDArray[np.float64]) -> ClassDice:
    spread = over_seeds([_mean(seed) for seed in dice_SN])
    return ClassDice(mean=spread.mean, sd=spread.sd or 0.0, frames=int(np.isfinite(dice_SN[0]).sum()))


def _overall(dice_SNK: NDArray[np.float64], held_NK: NDArray[np.bool_], groups_N: NDArray[np.int64]) -> DiceRecord:
    """Return the mean over classes of the means over frames, its spread over seeds, and an interval over groups."""
    spread = over_seeds([float(np.mean([_mean(seed[:, k]) for k in range(seed.shape[1])])) for seed in dice_SNK])
    low, high = _interval(dice_SNK, held_NK, groups_N) or (None, None)
    return DiceRecord(mean=spread.mean, sd=spread.sd or 0.0, seeds=spread.seeds, low=low, high=high)


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the frames that count: there are some, as a test mask holds the class."""
    return float(np.nanmean(values))


def _mean_of_held(
    sums_RK: NDArray[np.float64], counts_RK: NDArray[np.float64], held_RK: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean over the classes that a draw's frames hold, [R]; NaN where they hold none."""
    there_RK = held_RK > 0
    total_R = (sums_RK / np.maximum(counts_RK, 1) * there_RK).sum(axis=1)
    means: NDArray[np.float64] = np.where(there_RK.any(axis=1), total_R / np.maximum(there_RK.sum(axis=1), 1), np.nan)
    return means


def _interval(
    dice_SNK: NDArray[np.float64], held_NK: NDArray[np.bool_], groups_N: NDArray[np.int64]
) -> Interval | None:
    """Return the 95 % percentile interval of the mean Dice over test groups drawn anew; None for one group alone."""
    _, number = np.unique(groups_N, return_inverse=True)
    count = int(number.max()) + 1
    if count < 2:
        return None
    mean_NK = np.where(np.isfinite(dice_SNK), dice_SNK, 0.0).sum(axis=0)
    counted_NK = np.isfinite(dice_SNK).sum(axis=0)
    total, seen, held = (np.zeros((count, dice_SNK.shape[2])) for _ in range(3))
    np.add.at(total, number, mean_NK)
    np.add.at(seen, number, counted_NK)
    np.add.at(held, number, held_NK)
    draws = keyed_generator(count, 0x64696365).integers(0, count, (_RESAMPLES, count))
    return interval(_mean_of_held(*(one[draws].sum(axis=1) for one in (total, seen, held))))
