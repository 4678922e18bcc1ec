"""Compose the document of an evaluation from its scores and tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.identity import digest_of, soft_versions
from usjepa.evaluate.probes.logistic import FixedLogisticProbe
from usjepa.evaluate.probes.registry import regressors
from usjepa.evaluate.report.differences import differences_of
from usjepa.evaluate.report.document import (
    Document,
    EncoderRecord,
    Floor,
    FramesRecord,
    RunRecord,
    SegmentationRecord,
    SegmentationTask,
    SegmentedFrames,
    TaskRecord,
)
from usjepa.evaluate.report.examples import hidden
from usjepa.evaluate.report.feature_map import class_map, dataset_map
from usjepa.evaluate.report.numbers.records import NumbersRecord, RegressionRecord, RegressionTask
from usjepa.evaluate.report.published import published_for
from usjepa.evaluate.report.seen_in_training import chosen_by, seen_in_training
from usjepa.evaluate.report.text import UNDERSTATES, percent
from usjepa.evaluate.scores.bootstrap import FEW_GROUPS
from usjepa.evaluate.scores.metrics import constant_baseline, packed
from usjepa.evaluate.scores.regression import packed_floats
from usjepa.evaluate.scores.units import Units
from usjepa.evaluate.scoring.gathering import scored_positions, unit_note
from usjepa.evaluate.scoring.items import Items
from usjepa.evaluate.tasks.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.evaluate import EvaluateSettings
    from usjepa.cache.several.face import Readable
    from usjepa.evaluate.checking.hygiene import Facts
    from usjepa.evaluate.probes.base import Probe
    from usjepa.evaluate.report.feature_map import FeatureMap
    from usjepa.evaluate.scoring.encoder import Scored
    from usjepa.evaluate.scoring.evaluation import RegressionResult, Results, SegmentationResult
    from usjepa.evaluate.scoring.inputs import Inputs
    from usjepa.evaluate.tasks.task import Task

_UNDERSTATED = 0.03
"""Macro F1 by which a classifier must exceed the linear probe for a note."""
_SOFTWARE = ["numpy", "opencv-python-headless", "scikit-image", "scikit-learn", "scipy", "timm", "torch"]


def compose(inputs: Inputs, results: Results) -> Document:
    """Return the document of an evaluation."""
    tasks = inputs.found.tasks
    random_teacher = inputs.encoders.teacher_is_random if _scored(results, "teacher") else False
    return Document(
        inputs_digest=inputs.digest,
        inputs=inputs.identity,
        run=RunRecord(
            name=inputs.run.name,
            trained=inputs.run.config.extra,
            noun="student" if inputs.run.objective == "latents" else "teacher",
            objective=inputs.run.objective,
        ),
        settings=inputs.settings.model_dump(mode="json"),
        probes={probe.name: probe.described for probe in inputs.probes},
        encoders=_encoders(results, random_teacher),
        tasks=tuple(_task(task, results.facts[task.name], inputs.settings) for task in tasks),
        scores=tuple(scored.record for scored in results.scored),
        differences=tuple(differences_of(inputs, results)),
        maps=_maps(tasks, results.scored),
        segmentation=SegmentationRecord(
            tasks=tuple(_segmentation(one) for one in results.segmented),
            scores=tuple(score for one in results.segmented for score in one.scores),
        ),
        regression=RegressionRecord(
            probes={one.name: one.described for one in regressors(inputs.settings)} if results.regressed else {},
            tasks=tuple(_regression(one, inputs.settings) for one in results.regressed),
            scores=tuple(one.record for regressed in results.regressed for one in regressed.scored),
        ),
        notes=tuple(_notes(inputs, results, random_teacher)),
        software=soft_versions(_SOFTWARE),
    )


def _encoders(results: Results, teacher_is_random: bool) -> dict[str, EncoderRecord]:
    described = [one.described for one in results.scored]
    described += [one.described for regressed in results.regressed for one in regressed.scored]
    described += [one for segmented in results.segmented for one in segmented.described]
    found: dict[str, EncoderRecord] = {}
    for one in described:
        known = found.get(one.key)
        first = known or EncoderRecord(title=one.title, pooling=one.pooling, dim=one.dim, identities={})
        found[one.key] = first.model_copy(update={"identities": {**first.identities, one.task: one.identity}})
    if "teacher" in found and teacher_is_random:
        found["teacher"] = found["teacher"].model_copy(update={"title": "Its teacher (random weights)"})
    return found


def _task(task: Task, facts: Facts, settings: EvaluateSettings) -> TaskRecord:
    test = scored_positions(task, settings)
    floor = constant_baseline(task.labels[test], len(task.classes))
    groups = np.unique(task.groups[test], return_inverse=True)[1]
    return TaskRecord(
        name=task.name,
        classes=task.classes,
        counts=task.counts(),
        notes=(*_some(unit_note(task, settings)), *facts.sentences(), *_few_groups(len(np.unique(groups)))),
        layout=task.layout,
        split_origin=dict(task.origin),
        leakage=facts.leakage,
        hygiene=facts.hygiene,
        identity=task.identity,
        published=published_for(task.layout, task.name),
        test=FramesRecord(labels=packed(task.labels[test]), groups=packed(groups), digest=_frames_digest(task, test)),
        floor=Floor(macro_f1=floor.macro_f1, balanced_accuracy=floor.balanced_accuracy),
        ungrouped=task.ungrouped,
        unit=settings.unit,
    )


def _some(note: str) -> list[str]:
    return [note] if note else []


def _frames_digest(task: Task, positions: NDArray[np.int64]) -> str:
    """Return a digest of which frames these are, their order, labels and grouping.

    It rests on the sources' content and frame numbers, so that the same frames are known again in another store, by
    whatever names.
    """
    labels = [task.labels[positions].tolist(), list(task.classes)]
    return _digest(task.store, task.rows[positions], task.groups[positions], labels)


def _digest(store: Readable, rows: NDArray[np.int64], groups: NDArray[np.int64], more: Json) -> str:
    table = store.table
    at = np.searchsorted(store.rows, rows)
    contents = [table.sources[source].content_hash for source in table.source[at].tolist()]
    by_appearance = Units.of(groups).index_N  # the same numbers whatever the groups are called
    labels = more if isinstance(more, list) else [more]
    return digest_of([contents, table.frame[at].tolist(), *labels, by_appearance.tolist()])


def _few_groups(groups: int) -> list[str]:
    if groups >= FEW_GROUPS:
        return []
    return [
        f"Few patients: the test split has {groups} {'group' if groups == 1 else 'groups'}. With fewer than "
        f"{FEW_GROUPS}, intervals are too narrow and p-values too small."
        + (" With one there are none." if groups == 1 else "")
    ]


def _regression(result: RegressionResult, settings: EvaluateSettings) -> RegressionTask:
    task, items = result.task, Items(result.task, settings)
    first, values = items.first(TEST), items.values(TEST)
    groups = np.unique(task.groups[first], return_inverse=True)[1]
    notes = (*result.leakage.sentences(), *task.notes, *result.hygiene, *_few_groups(len(np.unique(groups))))
    return RegressionTask(
        name=task.name,
        quantity=task.quantity,
        unit=task.unit,
        scored=settings.unit,
        counts={split: items.counts(split) for split in (TRAIN, VALIDATION, TEST)},
        notes=notes,
        layout=task.layout,
        split_origin=dict(task.origin),
        identity=task.identity,
        leakage=result.leakage,
        test=NumbersRecord(
            values=packed_floats(values),
            groups=packed(groups),
            digest=_digest(task.store, task.rows[first], task.groups[first], values.tolist()),
        ),
        floor=result.floor,
    )


def _segmentation(result: SegmentationResult) -> SegmentationTask:
    task = result.task
    test = task.positions(TEST)
    groups = len(np.unique(task.groups[test]))
    return SegmentationTask(
        name=task.name,
        classes=task.classes,
        frames={part: len(task.positions(part)) for part in (TRAIN, VALIDATION, TEST)},
        identity=task.identity,
        leakage=result.leakage,
        floor=result.floor,
        notes=(*result.leakage.sentences(), *task.notes, *result.hygiene, *_few_groups(groups)),
        test=SegmentedFrames(
            groups=groups,
            digest=_digest(task.store, task.rows[test], task.groups[test], task.content),
        ),
    )


def _maps(tasks: Sequence[Task], scored: Sequence[Scored]) -> dict[str, FeatureMap | None]:
    """Return a map of the student's features for each task, and under "" one of all tasks where there are several."""
    features = {one.record.task: one.test_NF for one in scored if one.test_NF is not None}
    maps = {
        task.name: class_map(features[task.name], task.labels[task.positions(TEST)], task.classes)
        for task in tasks
        if task.name in features
    }
    if len(tasks) > 1 and len(features) == len(tasks):
        maps[""] = dataset_map(features)
    return maps


def _scored(results: Results, encoder: str) -> bool:
    return any(one.record.encoder == encoder for one in results.scored)


def _notes(inputs: Inputs, results: Results, random_teacher: bool) -> list[str]:
    """Return what must be known beside the scores, in the order of the page."""
    tasks = inputs.found.tasks
    notes = [*results.notes, *[why for task in tasks if (why := hidden(task))]]
    measured = [each.task.frames() for each in results.regressed]
    masked = [each.task.frames() for each in results.segmented]
    for task in (*tasks, *measured, *masked):
        seen = (seen_in_training(inputs.run, task), chosen_by(inputs.run, task))
        notes += [f"{task.name}: {note}" for note in seen if note]
    for scored in results.scored:
        notes += [f"{scored.record.task}: {note}" for note in _constant(scored, inputs.probes)]
        notes += [f"{scored.record.task}: {note}" for note in _understated(scored)]
    if random_teacher:
        notes.append("The teacher had random weights: its latents hold no learned knowledge.")
    notes += [note for regressed in results.regressed for note in regressed.notes]
    return notes + [note for segmented in results.segmented for note in segmented.notes]


def _understated(scored: Scored) -> list[str]:
    """Return where the paper's probe shows far less than a classifier that is fitted to the end."""
    fixed = scored.record.probes.get(FixedLogisticProbe.name)
    if fixed is None:
        return []
    found, told = fixed.measures["macro_f1"].mean, scored.record.macro_f1.mean
    if found - told < _UNDERSTATED:
        return []
    return [
        f"{UNDERSTATES} {scored.described.title} ({scored.described.dim:,} numbers): {percent(told)}, "
        f"where logistic regression of a fixed strength has {percent(found)}."
    ]


def _constant(scored: Scored, probes: Sequence[Probe]) -> list[str]:
    """Return which probes on an encoder give every test frame the same class: such scores tell nothing about it."""
    notes = []
    for probe in probes:
        made = scored.record.probes.get(probe.name)
        if made is not None and made.constant:
            seeds = "" if len(made.predicted) == 1 else f" ({len(made.constant)} of {len(made.predicted)} seeds)"
            title = f"{probe.described.title} on {scored.described.title}"
            notes.append(f"{title} gives every test frame the same class{seeds}.")
    return notes
