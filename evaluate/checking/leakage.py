"""Count what a test split shares with a probe's training and validation frames.

Three kinds, from certain to likely: a group (patient, clip) on both sides; the very same frame; a frame that looks the
same (see `near_duplicates.py`). Nothing is removed, because scores on the published split are what others report;
everything is counted, and printed beside the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.frames.blank import why_blank
from usjepa.cache.frames.cells import unpack_cells
from usjepa.cache.interrupt import safe_point
from usjepa.cache.perceptual import BITS, NEAR_BITS
from usjepa.evaluate.checking.near_duplicates import frame_bits, nearest
from usjepa.evaluate.scores.records import Record
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch
    from usjepa.evaluate.tasks.task import Task

_READ_AT_ONCE = 512
_COMPARED_AT_ONCE = 1024
_SHOWN = 5


@dataclass(frozen=True)
class Contents:
    """The content of frames, in the task's order, to find frames that show the same."""

    pixels: NDArray[np.object_]
    """[n] xxh3-128 of the stored pixels."""
    bits: NDArray[np.float32]
    """[n, 256] perceptual hash."""
    blank: NDArray[np.bool_]
    """[n] whether a frame shows no echo. Blank frames are alike and show nothing, so each has a hash of its own here
    and is near to none: they count neither as leak nor as labels that contradict each other."""

    def nearest(
        self, frames: NDArray[np.int64], among: NDArray[np.int64], labels: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the bits between each of some frames and its nearest neighbour, and which frame that is.

        Args:
            frames: positions [n] of the frames.
            among: positions of the frames that may be neighbours.
            labels: class of every frame: then only frames of another class may be neighbours. None: all may.
        """
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        for start in range(0, len(frames), _COMPARED_AT_ONCE):
            safe_point()
            some = frames[start : start + _COMPARED_AT_ONCE]
            barred = None if labels is None else labels[some, None] == labels[among]
            parts.append(nearest(self.bits[some], self.bits[among], barred))
        distance, which = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return distance, among[which] if len(among) else which

    def twins(self, frames: NDArray[np.int64], among: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how far each frame's twin is (-1: the very same pixels, else bits), and which frame that is."""
        distance, twin = self.nearest(frames, among)
        first = dict(zip(self.pixels[among][::-1], among[::-1].tolist(), strict=True))
        for i, pixels in enumerate(self.pixels[frames]):
            if pixels in first:
                distance[i], twin[i] = -1, first[pixels]
        return distance, twin


class Leakage(Record):
    """What test shares with training and validation; counts of test frames and groups."""

    test_frames: int
    test_groups: int
    groups: int
    """Test groups that also have frames outside of test."""
    group_frames: int
    """Test frames of these groups."""
    exact: int
    """Test frames of which the very same pixels lie outside of test."""
    near: int
    """Further test frames that have a near-duplicate there."""
    near_bits: int
    """Bits of 256 that near-duplicates may differ in."""
    near_other_group: int
    """Of `exact` and `near`: those whose twin belongs to another group, so that the groups' names hide the leak."""
    stopping: int
    """Validation frames with an exact or near-duplicate in training: they stop a probe later than they should."""
    named: int
    """Test frames of groups of their own whose names suggest a patient that is outside of test too."""
    rows: tuple[tuple[int, int], ...]
    """The first few pairs (test row, row outside of test) of the store, nearest first."""
    bits: int = BITS
    """Of a perceptual hash."""

    @property
    def frames(self) -> int:
        """Test frames of which the same or nearly the same is outside of test."""
        return self.exact + self.near

    @property
    def found(self) -> bool:
        """Whether anything leaks into the test score."""
        return bool(self.groups or self.frames or self.named)

    def sentences(self) -> list[str]:
        """Return what a reader of the scores must know."""
        notes = []
        if self.frames:
            notes.append(
                f"Leak: {self.exact} of {self.test_frames} test frames also lie in training or validation, and "
                f"{self.near} more have a near-duplicate there (at most {self.near_bits} of {BITS} hash bits apart); "
                f"for {self.near_other_group} of them under another group. Scores on this split are too high."
            )
        if self.named:
            notes.append(
                f"Leak by names: those of {self.named} of {self.test_frames} test frames suggest a patient who also "
                "has frames in training or validation (as case3_clip1 and case3_clip2), though the data counts them as "
                "groups of their own. If names tell the truth, scores on this split are too high and intervals too "
                "narrow."
            )
        if self.stopping:
            notes.append(f"{self.stopping} validation frames have an exact or near-duplicate in training.")
        return notes


def contents_of(task: Task) -> Contents:
    """Read a task's stored pixels once and return what they show; DamageError where they are damaged."""
    hashes: list[str] = []
    bits, blank = [np.zeros((0, BITS), np.float32)], [np.zeros(0, bool)]
    for start in range(0, len(task.rows), _READ_AT_ONCE):
        safe_point()
        read = task.store.read(task.rows[start : start + _READ_AT_ONCE], layers=("pixels", "regions"))
        some_bits = frame_bits(read.pixels)
        nothing = ~some_bits.any(axis=1) | _blank(read)
        some_bits[nothing] = 0.0
        hashes += [
            f"blank, row {row}" if empty else xxhash.xxh3_128_hexdigest(frame.tobytes())
            for row, frame, empty in zip(read.rows.tolist(), read.pixels, nothing.tolist(), strict=True)
        ]
        bits.append(some_bits)
        blank.append(nothing)
    return Contents(np.array(hashes, dtype=object), np.concatenate(bits), np.concatenate(blank))


def _blank(read: Batch) -> NDArray[np.bool_]:
    """Return which frames show no echo by the rules of `usjepa-cache scan`, bool [n]."""
    regions = unpack_cells(read.regions, read.pixels.shape[-1])
    frames = read.pixels.transpose(0, 2, 3, 1)
    return np.array(
        [
            bool(why_blank(frame[..., 0] if frame.shape[-1] == 1 else frame, region))
            for frame, region in zip(frames, regions, strict=True)
        ],
        dtype=bool,
    )


def blank_note(blank_N: NDArray[np.bool_], splits_N: NDArray[np.object_]) -> str:
    """Return what a reader of the scores must know of blank frames; "" where there are none."""
    if not blank_N.any():
        return ""
    counts = {split: int((blank_N & (splits_N == split)).sum()) for split in (TRAIN, VALIDATION, TEST)}
    parts = ", ".join(f"{count} in {split}" for split, count in counts.items() if count)
    return (
        f"{int(blank_N.sum())} of {len(blank_N)} frames are blank: one colour, few grey levels or hardly any scan "
        f"({parts}). They are scored like all, but count neither as leak nor as labels that contradict each other."
    )


def leakage_of(task: Task, contents: Contents) -> Leakage:
    """Return what the task's test split shares with its other frames."""
    test, validation = task.positions(TEST), task.positions(VALIDATION)
    rest = np.flatnonzero(task.splits != TEST)
    train = np.setdiff1d(rest, validation)
    shared = np.intersect1d(task.groups[test], task.groups[rest])
    distance, twin = contents.twins(test, rest)
    leaking = np.flatnonzero(distance <= NEAR_BITS)
    stopping, _ = contents.twins(validation, train)
    order = leaking[np.lexsort((leaking, distance[leaking]))][:_SHOWN]
    return Leakage(
        test_frames=len(test),
        test_groups=len(np.unique(task.groups[test])),
        groups=len(shared),
        group_frames=int(np.isin(task.groups[test], shared).sum()),
        exact=int((distance < 0).sum()),
        near=int(((distance >= 0) & (distance <= NEAR_BITS)).sum()),
        near_bits=NEAR_BITS,
        near_other_group=int((task.groups[test[leaking]] != task.groups[twin[leaking]]).sum()),
        stopping=int((stopping <= NEAR_BITS).sum()),
        named=_named(task, test[~np.isin(task.groups[test], shared)], rest),
        rows=tuple((int(task.rows[test[i]]), int(task.rows[twin[i]])) for i in order),
    )


def _named(task: Task, test: NDArray[np.int64], rest: NDArray[np.int64]) -> int:
    """Return how many of some test frames have a name whose patient the names of other frames have too."""
    if task.names is None:
        return 0
    mine, others = task.names[test], task.names[rest]
    return int((np.isin(mine, others) & (mine >= 0)).sum())
