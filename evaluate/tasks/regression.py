"""Open regression tasks: frames with a number each, as an ejection fraction.

`--regress [LAYOUT=]PATH[::DATASET][#COLUMN]` takes what `--task` takes. That labels are numbers is said by the option
and never guessed; see `measurements.py` for where they stand.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.identity import Json, digest_of
from usjepa.evaluate.tasks.cut import Known, cut
from usjepa.evaluate.tasks.find import columns_of, is_store, parted, wanted_folders
from usjepa.evaluate.tasks.layouts import recognise
from usjepa.evaluate.tasks.measurements import LABEL, Cell, Measured, measured, number
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION, Frames, split_frames
from usjepa.evaluate.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.evaluate import EvaluateSettings, Unit
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.tasks.base import TaskFolder
    from usjepa.evaluate.tasks.find import Columns

_SHOWN = 5
"""Lines that a message names."""
_FEW_VALUES = 10
"""Fewer different whole numbers may be codes of classes, and are told."""


@dataclass(frozen=True)
class Regression:
    """Frames of a store with a number each; arrays hold a value per frame."""

    name: str
    store: Store
    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    """In `unit`; all frames of a file have that of the file."""
    groups: NDArray[np.int64]
    splits: NDArray[np.object_]
    clips: NDArray[np.int64]
    """Number of each frame's file."""
    quantity: str
    unit: str
    """Empty where the data does not say."""
    notes: tuple[str, ...]
    """What a reader of the scores must know of how the task was made."""
    names: NDArray[np.int64]
    """What file names suggest as patients, see `name_groups.py`."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """"test" and "validation" -> whether the data gave that split or it was dealt."""
    layout: str = "store"

    def __len__(self) -> int:
        return len(self.rows)

    def positions(self, split: str) -> NDArray[np.int64]:
        """Return where in the arrays a split's frames stand."""
        return np.flatnonzero(self.splits == split)

    def frames(self, positions: NDArray[np.int64] | None = None) -> Task:
        """Return frames as a task of one class, for code that reads frames and no numbers; None: all of them."""
        at = np.arange(len(self)) if positions is None else positions
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
            clips=self.clips[at],
        )

    def keys(self, unit: Unit) -> NDArray[np.int64] | None:
        """Return a number for each frame, equal for those of one clip or patient; None for frames as they are."""
        return {"frame": None, "clip": self.clips, "patient": self.groups}[unit]

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that the scores rest on."""
        frames = [self.rows.tolist(), self.values.tolist(), self.splits.tolist(), self.groups.tolist()]
        return {
            "store": self.store.digest,
            "frames": digest_of(frames),
            "quantity": self.quantity,
            "unit": self.unit,
        }


def open_regressions(specs: Sequence[str], out: Path, recipe: Recipe) -> list[Regression]:
    """Return the regression tasks behind the `--regress` arguments, in their order.

    Raises:
        UsageError: a path or column that isn't there, a cell that is no number, or no frames to train or test on.
    """
    found = [task for spec in specs for task in _behind(spec, out, recipe)]
    seen: Counter[str] = Counter()
    named = []
    for task in found:
        seen[task.name] += 1
        named.append(replace(task, name=f"{task.name} ({seen[task.name]})") if seen[task.name] > 1 else task)
    return named


def _behind(spec: str, out: Path, recipe: Recipe) -> list[Regression]:
    """Return the tasks of one argument."""
    from usjepa.cache.reading.store import open_store

    place, column = _column_parted(spec)
    path, dataset = parted(place)
    if is_store(path):
        if column is not None:
            raise UsageError(
                f"--regress {spec}: a store keeps one label of a file and no column {column!r}. Name the folder or "
                "manifest that it was built from."
            )
        return _of_store(open_store(path), recipe.evaluate, dataset, Path(path).stem or "task")
    folders = recognise(path, recipe.cache)
    bare = Path(path.partition("=")[2] if not Path(path).exists() and "=" in path else path)
    quantity = measured(bare, column) if folders[0].layout == "plain" else None
    if quantity is None and column is not None:
        raise UsageError(
            f"--regress {spec}: no list with columns there. Numbers stand in a manifest CSV with a column `path`, or "
            "in FileList.csv of EchoNet."
        )
    return [task for one in wanted_folders(folders, path, dataset) for task in _of_folder(one, quantity, out, recipe)]


def _column_parted(spec: str) -> tuple[str, str | None]:
    """Return the place and the column of `PLACE[#COLUMN]`; a path that exists is taken as it stands."""
    place, mark, column = spec.rpartition("#")
    if not mark or Path(spec).exists():
        return spec, None
    if not column.strip():
        raise UsageError(f"--regress {spec}: no column is named behind #.")
    return place, column


def _of_store(store: Store, settings: EvaluateSettings, dataset: str | None, fallback: str) -> list[Regression]:
    names = sorted(set(store.table.dataset.tolist()))
    if dataset is not None and dataset not in names:
        raise UsageError(f"{store.location}: no dataset {dataset!r}; it holds {', '.join(names)}.")
    cells = {
        (s.dataset, s.path): Cell(s.label, store.location, f"{s.dataset}: {s.path}, label") for s in store.table.sources
    }
    labelled = {source.dataset for source in store.table.sources if source.label}
    wanted = [dataset] if dataset is not None else [name for name in names if name in labelled]
    if not wanted:
        raise UsageError(f"{store.location}: no file in it has a label, so that there is no number to predict.")
    refuse_wrong(cell for key, cell in cells.items() if key[0] in wanted)
    return [_made(store, one, f"{one or fallback}: {LABEL}", (LABEL, ""), cells, settings, None) for one in wanted]


def _of_folder(folder: TaskFolder, quantity: Measured | None, out: Path, recipe: Recipe) -> list[Regression]:
    """Return a task for each dataset of a folder that has any number; nothing is cut for cells that are none."""
    what = (LABEL, "") if quantity is None else (quantity.quantity, quantity.unit)
    by_path = {
        file.path: Cell(file.label, str(folder.root), f"{file.path}, label")
        if quantity is None
        else quantity.cell(file.path)
        for file in folder.files
    }
    listed = {path: cell for path, cell in by_path.items() if cell is not None}
    refuse_wrong(listed.values())
    if not any(cell.text for cell in listed.values()):
        raise UsageError(f"{folder.name}: no file in it has a number in `{what[0]}`.")
    store, known = cut(folder, out, recipe)
    said = {key: listed[file.path] for key, file in known.files.items() if file.path in listed}
    files = {key: replace(file, label=said[key].text if key in said else "") for key, file in known.files.items()}
    known = replace(known, files=files)
    names = sorted({key[0] for key, file in files.items() if file.label})
    return [
        _made(store, name, f"{name or folder.name}: {what[0]}", what, said, recipe.evaluate, known) for name in names
    ]


def refuse_wrong(cells: Iterable[Cell]) -> None:
    """Raise UsageError, naming the line, where a cell holds something that is no number."""
    wrong: list[str] = []
    for cell in cells:
        try:
            number(cell.text)
        except ValueError as error:
            wrong.append(f"{cell.where}: {error}")
    if wrong:
        more = f" So are {len(wrong) - 1} more." if len(wrong) > 1 else ""
        raise UsageError(f"{wrong[0]}.{more} Mend it, or leave the cell empty: the file is then left out.")


def _made(
    store: Store,
    dataset: str,
    name: str,
    what: tuple[str, str],
    cells: Mapping[tuple[str, str], Cell],
    settings: EvaluateSettings,
    known: Known | None,
) -> Regression:
    """Return the task of a dataset."""
    columns = columns_of(store, dataset, known)
    values, lost = _numbers(store, columns, cells, name)
    mask = columns.here & np.isfinite(values)
    if not mask.any():
        raise UsageError(f"{name}: no frame of it has a number.")
    keys, groups = np.unique(columns.groups[mask].astype(str), return_inverse=True)
    same = np.zeros(int(mask.sum()), np.int64)
    frames = Frames(same, groups.astype(np.int64), columns.splits[mask], tuple(keys.tolist()), ("frame",))
    split = split_frames(frames, settings.test_fraction, settings.validation_fraction, columns.given_by)
    for part in (TRAIN, TEST):
        if not (split.parts == part).any():
            raise UsageError(
                f"{name}: {len(keys)} {'group leaves' if len(keys) == 1 else 'groups leave'} no frame for {part}."
            )
    task = Regression(
        name,
        store,
        store.rows[mask],
        values[mask],
        frames.groups,
        split.parts,
        store.table.source[mask].astype(np.int64),
        *what,
        notes=(*(known.notes if known is not None else ()), *split.notes),
        names=columns.names[mask],
        origin=split.origin,
        layout="store" if known is None else known.layout,
    )
    return replace(task, notes=(*task.notes, *lost, *_remarks(task, int(columns.alone[mask].sum()))))


def _numbers(
    store: Store, columns: Columns, cells: Mapping[tuple[str, str], Cell], name: str
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the number of each row, NaN for none, and what must be said of files that have none."""
    here = np.unique(store.table.source[columns.here]).tolist()
    of_source = np.full(len(store.table.sources), np.nan)
    empty: list[str] = []
    for source in here:
        one = store.table.sources[source]
        cell = cells.get((one.dataset, one.path))
        value = None if cell is None else number(cell.text)
        if value is None:
            empty.append(one.path if cell is None else cell.told)
        else:
            of_source[source] = value
    return of_source[store.table.source], _left_out(empty, len(here), name)


def _left_out(empty: Sequence[str], files: int, name: str) -> list[str]:
    if not empty:
        return []
    more = f" and {len(empty) - _SHOWN} more" if len(empty) > _SHOWN else ""
    shown = "; ".join(empty[:_SHOWN])
    return [f"{len(empty)} of {files} files have no number in {name} and are left out: {shown}{more}."]


def _remarks(task: Regression, alone: int) -> list[str]:
    """Return what a reader must know of the numbers."""
    notes = []
    if not task.unit:
        notes.append(
            f"The data names no unit of {task.quantity}: errors are in the unit of its numbers, whatever it is."
        )
    different = np.unique(task.values)
    whole = bool((different == np.rint(different)).all())
    if 1 < len(different) < _FEW_VALUES and whole:
        listed = ", ".join(f"{value:g}" for value in different)
        notes.append(
            f"{task.quantity} has {len(different)} values, all whole ({listed}). If they are codes of classes, their "
            "distances mean nothing: score them with --task."
        )
    for split in (TRAIN, TEST):
        here = np.unique(task.values[task.positions(split)])
        if len(here) == 1:
            notes.append(f"All frames of {split} have the value {here[0]:g}{' ' if task.unit else ''}{task.unit}.")
    if not len(task.positions(VALIDATION)):
        notes.append("No frame is left for validation: the strength of ridge regression is not chosen.")
    if alone:
        notes.append(f"{alone} of {len(task)} frames are of files that count as groups of their own.")
    return notes
