"""What `scores.json` says of a task, of what was seen in training, and of the differences between encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import StoreError
from usjepa.cache.identity import digest_of
from usjepa.evaluate.report.markup import STUDENT
from usjepa.evaluate.report.paper_scores import published_for
from usjepa.evaluate.scores.bootstrap import FEW_GROUPS, Draws, differences
from usjepa.evaluate.scores.metrics import constant_baseline, packed
from usjepa.evaluate.tasks.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.store import Store
    from usjepa.evaluate.encoders.finished_run import Run
    from usjepa.evaluate.tasks.hygiene import Facts
    from usjepa.evaluate.tasks.task import Task


def draws_of(task: Task, count: int) -> Draws | None:
    """Return the draws of a task's test groups; None where none are wanted."""
    return Draws(task.groups[task.positions(TEST)], count) if count else None


def task_told(task: Task, facts: Facts) -> dict[str, Json]:
    """Return what is said of a task, its test frames' classes and groups included."""
    test = task.positions(TEST)
    floor = constant_baseline(task.labels[test], len(task.classes))
    groups = np.unique(task.groups[test], return_inverse=True)[1]
    return {
        "name": task.name,
        "classes": list(task.classes),
        "counts": task.counts(),
        "notes": [*facts.sentences(), *_few_groups(len(np.unique(groups)))],
        "layout": task.layout,
        "split_origin": dict(task.origin),
        **facts.told(),
        "identity": task.identity,
        "published": published_for(task.layout, task.name),
        "test": {"labels": packed(task.labels[test]), "groups": packed(groups), "digest": frames_digest(task, test)},
        "floor": {"macro_f1": floor.macro_f1, "balanced_accuracy": floor.balanced_accuracy},
    }


def frames_digest(task: Task, positions: NDArray[np.int64]) -> str:
    """Return a digest of which frames these are, their order, labels and grouping.

    It rests on the sources' content and frame numbers, so that the same frames are known again in another store, by
    whatever names.
    """
    table = task.store.table
    at = np.searchsorted(task.store.rows, task.rows[positions])
    contents = [table.sources[source].content_hash for source in table.source[at].tolist()]
    _, first, group = np.unique(task.groups[positions], return_index=True, return_inverse=True)
    by_appearance = np.argsort(np.argsort(first))[group]  # the same numbers whatever the groups are called
    labels = task.labels[positions].tolist()
    return digest_of([contents, table.frame[at].tolist(), labels, list(task.classes), by_appearance.tolist()])


def _few_groups(groups: int) -> list[str]:
    if groups >= FEW_GROUPS:
        return []
    return [
        f"Few patients: the test holds {groups} {'group' if groups == 1 else 'groups'}. Intervals and p-values that "
        f"rest on fewer than {FEW_GROUPS} say little of how patients differ, and are too sure of themselves."
    ]


def student_differences(
    tasks: dict[str, int], scores: Sequence[dict[str, Json]], drawn: dict[tuple[str, str], NDArray[np.float64]]
) -> list[dict[str, Json]]:
    """Return the student minus each other encoder on each task, in macro F1: one family, corrected together.

    Args:
        tasks: name -> number of test groups.
        scores: as in `scores.json`.
        drawn: (task, encoder) -> macro F1 in each draw.
    """
    mean = {(s["task"], s["encoder"]): s["probe"]["macro_f1"]["mean"] for s in scores}
    pairs = [(task, s["encoder"]) for task in tasks for s in scores if s["task"] == task and s["encoder"] != STUDENT]
    pairs = [(task, other) for task, other in pairs if (task, other) in drawn and (task, STUDENT) in drawn]
    told = [
        {
            "task": task,
            "encoder": STUDENT,
            "other": other,
            "difference": mean[task, STUDENT] - mean[task, other],
            "groups": tasks[task],
        }
        for task, other in pairs
    ]
    return differences(told, [drawn[task, STUDENT] - drawn[task, other] for task, other in pairs])


def constant_told(scores: dict[str, Json], title: str, seeds: int) -> list[str]:
    """Return which classifiers on an encoder give every test frame the same class: their scores say nothing of it."""
    told = []
    for key, name in (("probe", "probes"), ("attentive", "attentive probes")):
        constant = len(scores[key]["constant_seeds"]) if scores.get(key) else 0
        if constant:
            told.append(f"{constant} of {seeds} {name} on {title} give every test frame the same class.")
    for key, name in (("logistic", "Logistic regression"), ("knn", "k-NN")):
        if scores[key]["constant"]:
            told.append(f"{name} on {title} gives every test frame the same class.")
    return told


def seen_in_training(run: Run, task: Task) -> str:
    """Return a note if test frames took part, without labels, in the run's training; "" if none is known to have."""
    test = task.rows[task.positions(TEST)]
    try:
        offered = _rows_offered(run, task.store)
    except StoreError as error:
        return f"Whether test frames took part in the encoder's training can't be told: {error}"
    split = task.store.table.split[np.searchsorted(task.store.rows, test)].astype(str)
    seen = int((np.isin(test, offered) & ~np.isin(split, run.excluded_splits)).sum())
    if not seen:
        return ""
    return (
        f"{seen} of {len(test)} test frames took part in the encoder's training, without their labels, because they "
        "bear no split that training excludes. On patients that the encoder never saw, scores may be lower."
    )


def _rows_offered(run: Run, store: Store) -> NDArray[np.int64]:
    """Return the rows of a store that a run's training could draw from; none where it was trained on another store.

    The run's generation is known by its content, in runs of earlier versions by the digest of its whole manifest.

    Raises:
        StoreError: the generations that the store still has can't tell.
    """
    if not run.store:
        raise StoreError("the run's config.json does not name the store that it was trained on.")
    kept = 0
    for manifest in store.generations():
        if run.store.get("content") == manifest.content_digest() or run.store.get("digest") == manifest.digest:
            return manifest.row_numbers()
        kept += 1
    if kept < store.generation:
        raise StoreError(
            f"{store.location} keeps {kept} of its {store.generation} generations, and the run's may be among the rest."
        )
    return np.empty(0, np.int64)
