"""Open the labelled set of `train.probe`, and score an encoder's features of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.identity import digest_of
from usjepa.cache.sources.patients import group_key
from usjepa.train.probe.folds import FITTED, check_classes, thinned
from usjepa.train.probe.labelled import find_labelled
from usjepa.train.probe.scoring import constant_guess, probe_score

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.train.probe.scoring import ProbeScore

_AT_ONCE = 64


@dataclass(frozen=True)
class ProbeSet:
    """Labelled frames that no encoder learns from; arrays hold a value a frame, [N]."""

    name: str
    store: Store
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    fold: NDArray[np.int64]
    """In which fold a frame is scored; `FITTED`: in none."""
    classes: tuple[str, ...]
    how: str
    """Where the scored groups come from, in words."""
    settings: EvaluateSettings
    notes: tuple[str, ...] = ()
    sources: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Which source of the store each frame is of."""

    @property
    def scored(self) -> int:
        """Frames that are scored."""
        return int((self.fold != FITTED).sum())

    @property
    def scored_groups(self) -> int:
        """Patients or clips that are scored."""
        return len(np.unique(self.groups[self.fold != FITTED]))

    @cached_property
    def hashes(self) -> frozenset[str]:
        """Content hashes of its files."""
        table = self.store.table
        return frozenset(table.sources[int(i)].content_hash for i in np.unique(self.sources)) - {""}

    @cached_property
    def group_keys(self) -> frozenset[tuple[str, str]]:
        """What tells its patients and clips from others, where the data names them."""
        sources = [self.store.table.sources[int(i)] for i in np.unique(self.sources)]
        return frozenset(group_key(one.dataset, one.group) for one in sources if one.group not in ("", one.path))

    @cached_property
    def digest(self) -> str:
        """xxh3-128 (hex) of what its scores depend on beside the encoder, wherever the frames lie."""
        table = self.store.table
        here = np.searchsorted(self.store.rows, self.rows)
        frames = [
            [table.sources[source].content_hash, frame]
            for source, frame in zip(self.sources.tolist(), table.frame[here].tolist(), strict=True)
        ]
        columns = [self.labels.tolist(), self.groups.tolist(), self.fold.tolist(), list(self.classes)]
        rule = [self.settings.logistic_c, self.settings.neighbours]
        return digest_of([frames, columns, rule, self.store.identity["pixels"]])

    def score(self, features: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> ProbeScore | None:
        """Return the score of an encoder; None where one of its features is not finite.

        Args:
            features: gives one vector for each of some frames, uint8 [B, C, S, S] -> float32 [B, F].

        Raises:
            UsjepaError: frames can't be read any more.
        """
        pieces = [
            features(self.store.read(self.rows[start : start + _AT_ONCE], layers=("pixels",)).pixels)
            for start in range(0, len(self.rows), _AT_ONCE)
        ]
        return probe_score(np.concatenate(pieces), self.labels, self.groups, self.fold, self.settings)

    def describe(self) -> list[str]:
        """Return what is to be known of its scores, as lines."""
        counts = np.bincount(self.labels[self.fold != FITTED], minlength=len(self.classes))
        each = ", ".join(
            f"{name} {count:,}" for name, count in zip(self.classes, counts.tolist(), strict=True) if count
        )
        fitted = "" if FITTED not in self.fold else f", fitted on {int((self.fold == FITTED).sum()):,} others"
        guess = constant_guess(self.labels[self.fold != FITTED])
        line = (
            f"probe {self.name}: {self.scored:,} frames of {self.scored_groups:,} groups are scored ({each}), from "
            f"{self.how}{fitted}; a constant guess has a macro F1 of {100 * guess:.1f} %"
        )
        return [line, *(f"probe {self.name}: {note}" for note in self.notes)]


def open_probe_set(place: str, work: Path, recipe: Recipe) -> ProbeSet:
    """Return the labelled set at `PATH[::DATASET]`; frames that are in no store yet are cut into one.

    Args:
        place: a store, or what `usjepa-cache build --source` takes.
        work: folder for frames that are cut; a later call finds them there.
        recipe: `cache` says how frames are cut, `evaluate` how they are split and scored, `train.probe_frames` how
            many are taken.

    Raises:
        UsageError: there is nothing, no label, several datasets, or too few groups.
        SourceError: a file can't be read, and the recipe does not skip such.
    """
    found = find_labelled(place, work, recipe)
    store, folds = found.store, found.folds
    place_S = np.full(len(store.table.sources), -1)
    place_S[folds.files] = np.arange(len(folds.files))
    at_R = np.where(store.table.view == 0, place_S[store.table.source], -1)
    here = np.flatnonzero(at_R >= 0)
    kept = here[thinned(folds.groups[at_R[here]], recipe.train.probe_frames)]
    at_N = at_R[kept]
    check_classes(folds.labels[at_N], folds.fold[at_N], folds, place)
    few = (f"{len(kept):,} of its {len(here):,} frames are looked at (train.probe_frames)",)
    return ProbeSet(
        found.name,
        store,
        store.rows[kept],
        folds.labels[at_N],
        folds.groups[at_N],
        folds.fold[at_N],
        folds.classes,
        folds.how,
        recipe.evaluate,
        (*folds.notes, *(few if len(kept) < len(here) else ())),
        store.table.source[kept].astype(np.int64),
    )
