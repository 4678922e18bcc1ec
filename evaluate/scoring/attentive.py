"""Scores the attentive probe on a task: tokens of a bounded number of frames, a probe a seed, every test frame."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.evaluate.encoders.tokens import FlatTokens, TokenSource
from usjepa.evaluate.probes.attentive import heads_of, train_attentive
from usjepa.evaluate.probes.linear import one_thread
from usjepa.evaluate.probes.scaler import fit_token_scaler, scale_in_place
from usjepa.evaluate.scores.metrics import softmax
from usjepa.evaluate.scoring.few_shot import subset
from usjepa.evaluate.scoring.linear import drawn_scores, seeded_told
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.probes.scaler import Scaler
    from usjepa.evaluate.scores.bootstrap import Draws
    from usjepa.evaluate.tasks.task import Task

_TESTED_AT_ONCE = 256
_HELD_SHARE = 4
"""Validation frames are at most a quarter of the training frames."""


def score_attentive(
    encoder: Encoder,
    task: Task,
    folder: Path,
    settings: EvaluateSettings,
    draws: Draws | None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Json]:
    """Return the scores of attentive probes on an encoder's patch tokens, as they go into `scores.json`.

    Args:
        encoder: one for which `gives_tokens` holds.
        task: labelled frames.
        folder: where tokens are kept.
        settings: the linear probe's protocol, and how many frames are trained on.
        draws: behind the intervals; none: no intervals.
        check: called before every batch and epoch; may raise to stop.
    """
    source = TokenSource(FlatTokens(encoder), folder, settings.encode_batch_size, check)
    train = _some(task, TRAIN, settings.attentive_frames)
    held = _some(task, VALIDATION, max(1, settings.attentive_frames // _HELD_SHARE))
    x = _tokens(source, train)
    scaler = fit_token_scaler(x)
    scale_in_place(x, scaler)
    held_x = scale_in_place(_tokens(source, held), scaler) if len(held.rows) else x[:0]
    classes = len(task.classes)
    with one_thread():
        trained = [
            train_attentive(x, train.labels, held_x, held.labels, classes, settings, seed, check)
            for seed in range(settings.seeds)
        ]
        logits_SNC = np.concatenate(
            [
                np.stack([probe.logits(torch.from_numpy(some)).numpy() for probe, _, _ in trained])
                for some in _test_tokens(source, task, scaler)
            ],
            axis=1,
        )
    truth = task.labels[task.positions(TEST)]
    predicted_SN, probability_SNC = logits_SNC.argmax(axis=2).astype(np.int64), softmax(logits_SNC)
    drawn = drawn_scores(draws, truth, classes, predicted_SN, probability_SNC)
    return {
        **seeded_told(truth, classes, predicted_SN, probability_SNC, drawn),
        "best_epoch": [best for _, best, _ in trained],
        "epochs": [epochs for _, _, epochs in trained],
        "training_frames": len(train.rows),
        "validation_frames": len(held.rows),
        "heads": heads_of(x.shape[2]),
    }


def _some(task: Task, split: str, most: int) -> Task:
    """Return the task with some of a split's frames only: at most about so many, drawn class by class."""
    where = task.positions(split)
    if len(where) > most:
        where = where[subset(task.labels[where], most / len(where), draw=0)]
    return _only(task, where)


def _only(task: Task, where: NDArray[np.int64]) -> Task:
    return replace(
        task, rows=task.rows[where], labels=task.labels[where], groups=task.groups[where], splits=task.splits[where]
    )


def _tokens(source: TokenSource, task: Task) -> NDArray[np.float32]:
    """Return float32 [n, T, D]."""
    tokens = source.tokens(task)
    return tokens.reshape(len(tokens), -1, tokens.shape[-1])


def _test_tokens(source: TokenSource, task: Task, scaler: Scaler) -> Iterator[NDArray[np.float32]]:
    """Yield the standardised tokens of all test frames, a few frames at once."""
    test = task.positions(TEST)
    for start in range(0, len(test), _TESTED_AT_ONCE):
        yield scale_in_place(_tokens(source, _only(task, test[start : start + _TESTED_AT_ONCE])), scaler)
