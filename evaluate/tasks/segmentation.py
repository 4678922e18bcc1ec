"""Open segmentation tasks: frames with a mask each, stretched to the stored pixels.

UltraBench's own seven, by the key of the mask in its JSON, and BUS-BRA's tumours. A mask's values are its classes, 0 is
the background; a mask of 0 and 255 is a binary one. `--segment [LAYOUT=]PATH[::NAME]` takes what `--task` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.identity import Json, digest_of
from usjepa.evaluate.tasks.cut import cut
from usjepa.evaluate.tasks.find import is_store, parted, wanted_folders
from usjepa.evaluate.tasks.layouts import recognise
from usjepa.evaluate.tasks.mask_files import Survey, read_mask
from usjepa.evaluate.tasks.name_groups import name_codes
from usjepa.evaluate.tasks.splits import TEST, TRAIN, Frames, split_frames, splits_of
from usjepa.evaluate.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.tasks.base import Labelled, TaskFolder

_BENCHMARK = {
    "aul_liver": ("liver_mask", ("liver",)),
    "aul_mass": ("mass_mask", ("mass",)),
    "camus": ("mask", ("left ventricle", "myocardium", "left atrium")),
    "mmotu": ("tumor_mask_binary", ("tumour",)),
    "open_kidney": ("capsule_mask", ("capsule",)),
    "psfhs": ("psfh_mask", ("pubic symphysis", "fetal head")),
    "stanford_thyroid": ("tumor_mask", ("nodule",)),
    "busbra": ("tumor_mask", ("tumour",)),
}
"""Task -> the mask that the benchmark asks for, and what its values 1, 2, ... are."""
MASKS_VERSION = 2
"""Of how masks are brought to the stored size. Version 1 took the value at a pixel's upper left corner, which moved
masks by half a stored pixel against their frames; 2 takes the one at its centre."""


@dataclass(frozen=True)
class Segmentation:
    """Frames of a store with their masks; arrays hold a value per frame."""

    name: str
    store: Store
    rows: NDArray[np.int64]
    groups: NDArray[np.int64]
    splits: NDArray[np.object_]
    masks: tuple[Path, ...]
    values: tuple[int, ...]
    """Value in a mask of each class, the background's 0 first."""
    classes: tuple[str, ...]
    """Names of the classes, the background's first."""
    notes: tuple[str, ...]
    content: str
    """xxh3-128 (hex) of all masks' bytes."""
    names: NDArray[np.int64]
    """What file names suggest as patients, see `name_groups.py`."""

    def positions(self, split: str) -> NDArray[np.int64]:
        """Return where in the arrays a split's frames stand."""
        return np.flatnonzero(self.splits == split)

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """Whether a frame's mask holds a class, at the stored size, which scores are of."""
        held = np.zeros((len(self.rows), len(self.classes)), dtype=bool)
        for position in range(len(held)):
            held[position, np.unique(self.read_masks(np.array([position])))] = True
        return held

    @property
    def tested(self) -> NDArray[np.int64]:
        """Numbers of the classes that a test mask holds, but the background's: what a mean Dice is over."""
        return np.flatnonzero(self.held[self.positions(TEST), 1:].any(axis=0)) + 1

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that the scores rest on."""
        frames = [self.rows.tolist(), self.splits.tolist(), self.groups.tolist(), list(self.values)]
        return {
            "store": self.store.digest,
            "frames": digest_of(frames),
            "masks": self.content,
            "classes": list(self.classes),
            "version": MASKS_VERSION,
        }

    def frames(self, positions: NDArray[np.int64] | None = None) -> Task:
        """Return frames as a task of one class, for code that reads frames and no masks; None: all of them."""
        at = np.arange(len(self.rows)) if positions is None else positions
        return Task(
            self.name,
            self.store,
            self.rows[at],
            np.zeros(len(at), np.int64),
            ("frame",),
            self.groups[at],
            self.splits[at],
            (),
            names=self.names[at],
        )

    def read_masks(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the masks of frames as class numbers, uint8 [n, S, S], as large as the stored pixels.

        A pixel's class is the one at its centre: pixels are area means, which are centred too.
        """
        edge = self.store.size
        number = np.zeros(256, np.uint8)
        number[list(self.values)] = np.arange(len(self.values))
        out = np.empty((len(positions), edge, edge), np.uint8)
        for i, position in enumerate(positions):
            mask = number[read_mask(self.masks[position])]
            out[i] = cv2.resize(mask, (edge, edge), interpolation=cv2.INTER_NEAREST_EXACT)
        return out


def open_segmentations(specs: Sequence[str], out: Path, recipe: Recipe) -> list[Segmentation]:
    """Return the segmentation tasks behind the `--segment` arguments, in their order.

    Raises:
        UsageError: a path that isn't there, or a task without masks, or without frames to train or test on.
        SourceError: a mask can't be read, or its values are no classes.
    """
    found = []
    for spec in specs:
        path, dataset = parted(spec)
        if is_store(path):
            raise UsageError(
                f"--segment {spec}: a store, and stores hold no masks. Name the folder or manifest of frames and masks."
            )
        folders = recognise(path, recipe.cache)
        if folders[0].layout == "plain":
            folders, dataset = wanted_folders(folders, path, dataset, "--segment"), None
        folders = [f for f in folders if dataset in (None, f.name) and _mask_key(f) is not None]
        if not folders:
            raise UsageError(
                f"--segment {spec}: no task with masks there. UltraBench's and BUS-BRA's tasks have them, `images/` "
                "beside `masks/`, and a manifest CSV with a column `mask`."
            )
        found += [_opened(folder, out, recipe) for folder in folders]
    names = [task.name for task in found]
    counts = [names[:i].count(name) for i, name in enumerate(names)]
    return [replace(t, name=f"{t.name} ({n + 1})") if n else t for t, n in zip(found, counts, strict=True)]


def _mask_key(folder: TaskFolder) -> str | None:
    """Return the mask that a task asks for: the benchmark's, or the only one there is."""
    keys = sorted({key for file in folder.files for key in file.masks})
    wanted = _BENCHMARK.get(folder.name, ("", ()))[0]
    return wanted if wanted in keys else (keys[0] if len(keys) == 1 else None)


def _opened(folder: TaskFolder, out: Path, recipe: Recipe) -> Segmentation:
    key = _mask_key(folder)
    assert key is not None
    store, known = cut(folder, out, recipe)
    table = store.table
    per_source = [known.files.get((source.dataset, source.path)) for source in table.sources]
    has = np.array([file is not None and key in file.masks for file in per_source], dtype=bool)
    mask = has[table.source] & (table.view == 0) & (table.frame == 0)
    files = [file for i in table.source[mask] if (file := per_source[i]) is not None]
    paths = tuple(folder.root / file.masks[key] for file in files)
    keys, groups = np.unique([_group(folder, file) for file in files], return_inverse=True)
    in_store = [table.sources[i].split for i in table.source[mask].tolist()]
    given, given_by = splits_of([file.split for file in files], in_store)
    same = np.zeros(len(files), np.int64)
    split = split_frames(
        Frames(same, groups.astype(np.int64), np.array(given, dtype=object), tuple(keys.tolist()), ("frame",)),
        recipe.evaluate.test_fraction,
        recipe.evaluate.validation_fraction,
        given_by,
    )
    for part in (TRAIN, TEST):
        if not (split.parts == part).any():
            raise UsageError(f"{folder.name}: {len(keys)} groups leave no frame with a mask for {part}.")
    survey, sizes = Survey(), store.frame_sizes()
    for path, source in zip(paths, table.source[mask].tolist(), strict=True):
        height, width = sizes[source].tolist()
        survey.look(path, (height, width))
    values = survey.values(split.parts)
    lost = len({file.path for file in folder.files}) - len(files)
    notes = (f"{lost} frames have no mask and are left out.",) if lost else ()
    task = Segmentation(
        f"{folder.name}: {key}",
        store,
        store.rows[mask],
        groups.astype(np.int64),
        split.parts,
        paths,
        values,
        _names(folder, key, values),
        (*folder.notes, *split.notes, *notes),
        survey.content(),
        name_codes([file.group or file.path for file in files]),
    )
    if not len(task.tested):
        raise UsageError(f"{folder.name}: every mask of test is all background: there is nothing to score.")
    return task


def _group(folder: TaskFolder, file: Labelled) -> str:
    dataset = file.dataset or folder.name
    return f"{dataset}\0{file.group}" if file.group else f"{dataset}\0\0{file.path}"


def _names(folder: TaskFolder, key: str, values: tuple[int, ...]) -> tuple[str, ...]:
    if folder.mask_names:
        unnamed = [value for value in values[1:] if value not in folder.mask_names]
        if unnamed:
            raise UsageError(f"{folder.root}: mask_values.json does not name the value {unnamed[0]}, which masks hold.")
        return (folder.mask_names.get(0, "background"), *[folder.mask_names[value] for value in values[1:]])
    wanted, names = _BENCHMARK.get(folder.name, ("", ()))
    if key == wanted and len(values) == 2 and len(names) == 1:
        return ("background", *names)
    if key == wanted and max(values) <= len(names):
        return ("background", *[names[value - 1] for value in values[1:]])
    return ("background", *[f"value {value}" for value in values[1:]])
