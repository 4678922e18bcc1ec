"""`usjepa-evaluate`: a run's encoder and its rivals on labelled tasks, and the report. A finished report is kept.

Features are kept under OUT/features, frames cut for a task under OUT/tasks; `scores.json` is written last and names
everything the page rests on, so a second call with the same inputs finds the report finished and redoes nothing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from usjepa.cache.identity import Json, digest_of, soft_versions
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.evaluate.document import draws_of, seen_in_training, student_differences, task_told
from usjepa.evaluate.embedding import class_map, dataset_map
from usjepa.evaluate.encoders import Encoders
from usjepa.evaluate.examples import examples_of
from usjepa.evaluate.facts import facts_of
from usjepa.evaluate.features import FEATURES_VERSION, features_of
from usjepa.evaluate.few_shot import few_shot
from usjepa.evaluate.markup import STUDENT, Example
from usjepa.evaluate.report import render
from usjepa.evaluate.robustness import Corrupted, only_tested, robustness, seen_corrupted
from usjepa.evaluate.runs import Run, open_run
from usjepa.evaluate.scores_csv import scores_csv
from usjepa.evaluate.scoring import score_features
from usjepa.evaluate.segment import gives_tokens, score_segmentation
from usjepa.evaluate.segmentation import open_segmentations
from usjepa.evaluate.splits import TEST, TRAIN, VALIDATION
from usjepa.evaluate.tasks import open_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.settings import Corruption, Recipe
    from usjepa.evaluate.bootstrap import Draws
    from usjepa.evaluate.encoders import Encoder
    from usjepa.evaluate.facts import Facts
    from usjepa.evaluate.scoring import Scored
    from usjepa.evaluate.segmentation import Segmentation
    from usjepa.evaluate.tasks import Found, Task

REPORT_VERSION = 3
"""Raised when the same inputs would give another page or other scores."""

SCORES, TABLE, PAGE = "scores.json", "scores.csv", "index.html"
GO_ON = "Features computed so far are kept: run the same command again to go on."

TITLES = {
    STUDENT: "Student (this run)",
    "teacher": "Its teacher",
    "random": "Random weights",
    "pixels": "Raw pixels",
    "hog": "Edges (HOG)",
}


def say(text: str) -> None:
    """Print a line for the person or the log that watches."""
    print(text, file=sys.stderr, flush=True)


def evaluate(
    run_dir: str,
    tasks: Sequence[str],
    out: str,
    recipe: Recipe,
    device: str | None = None,
    encoders: Sequence[str] = (),
    segmentations: Sequence[str] = (),
) -> Json:
    """Score a run's encoder and the recipe's baselines on tasks, write OUT/index.html and OUT/scores.json.

    Args:
        run_dir: a finished training run.
        tasks: stores, or folders and manifests that stage one can read; `PATH::DATASET` picks one dataset.
        out: folder of the report.
        recipe: its `evaluate` section is the protocol, its `cache` section cuts tasks that are no stores yet.
        device: torch device of the encoders; none: a GPU where there is one.
        encoders: scored beside the run's own: runs, checkpoints, timm names (see `named.py`).
        segmentations: frames with masks, for a linear head on patch tokens (see `segmentation.py`).

    Returns:
        The document that scores.json holds.

    Raises:
        UsageError: the run has not finished training, or a task can't be found or scored.
        Interrupted: SIGINT or SIGTERM; features computed so far stay for the next call.
        UsjepaError: damage in the run or in a task's store.
    """
    run, folder = open_run(Path(run_dir)), Path(out)
    made = Encoders(run, recipe, device, tuple(encoders))  # a name that is none is heard of before frames are cut
    found = open_tasks(tasks, folder, recipe)
    opened = found.tasks
    masked = open_segmentations(segmentations, folder, recipe)
    inputs = _inputs(run, found, recipe, made, masked)
    finished = _finished(folder, digest_of(inputs))
    if finished is not None:
        say(f"{folder / PAGE}: finished by an earlier call with the same inputs; nothing is done again.")
        return finished
    with graceful_interrupts() as stop:
        work = _Work(run, opened, recipe, folder, made, lambda: stop.check(GO_ON), masked)
        work.notes += found.left_out
        work.score()
        work.segment()
    return _write(folder, work.document(inputs), work)


def _inputs(
    run: Run, found: Found, recipe: Recipe, encoders: Encoders, masked: Sequence[Segmentation]
) -> dict[str, Json]:
    """Return everything that may change the report."""
    teacher = recipe.cache.teacher
    return {
        "versions": {"report": REPORT_VERSION, "features": FEATURES_VERSION},
        "run": run.identity,
        "tasks": [{"name": task.name, **task.identity} for task in found.tasks],
        "left_out": found.left_out,
        "segmentation": [{"name": task.name, **task.identity} for task in masked],
        "encoders": {one.key: one.encoder.identity for one in encoders.named},
        "settings": recipe.evaluate.model_dump(mode="json"),
        "teacher": None if teacher is None else teacher.model_dump(mode="json"),
    }


def _finished(folder: Path, digest: str) -> Json | None:
    """Return an earlier call's document if its inputs are these and its page is whole."""
    try:
        document = json.loads((folder / SCORES).read_text())
        page = (folder / PAGE).read_bytes()
        same = document["inputs_digest"] == digest and document["page"] == xxhash.xxh3_128_hexdigest(page)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        say(f"{folder / SCORES}: can't be read as a report's scores: making the report again.")
        return None
    return document if same else None


@dataclass
class _Work:
    """One evaluation: what is scored on what, and what came of it."""

    run: Run
    tasks: list[Task]
    recipe: Recipe
    folder: Path
    encoders: Encoders
    check: Callable[[], None]
    """Raises Interrupted where a stop was asked for."""
    segmentations: list[Segmentation] = field(default_factory=list)
    segmented: list[dict[str, Json]] = field(default_factory=list)
    scores: list[dict[str, Json]] = field(default_factory=list)
    described: dict[str, dict[str, Json]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Facts] = field(default_factory=dict)
    """Task's name -> what was found out about it."""
    draws: dict[str, Draws | None] = field(default_factory=dict)
    drawn: dict[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)
    """(task, encoder) -> macro F1 in each bootstrap draw."""
    maps: dict[str, Json] = field(default_factory=dict)
    """Task's name -> map of the student's features; "" -> the map of all tasks."""
    _mapped: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def score(self) -> None:
        """Score every encoder on every task; one that can't be had is noted, not fatal, unless it is the student."""
        self.facts = {task.name: facts_of(task, self.check) for task in self.tasks}
        self.draws = {task.name: draws_of(task, self.recipe.evaluate.bootstrap) for task in self.tasks}
        for name in (STUDENT, *self.recipe.evaluate.baselines, *[one.key for one in self.encoders.named]):
            for task in self.tasks:
                self._score(name, task)
        self.notes += [f"{task}: {note}" for task, note in self._hygiene()]
        if "teacher" in self.described and self.encoders.teacher_is_random:
            self.described["teacher"]["title"] = "Its teacher (random weights)"
            self.notes.append(
                "The teacher had random weights: what the student learnt from it is no learned knowledge."
            )

    def segment(self) -> None:
        """Score every encoder that gives patch tokens on every segmentation task."""
        for task in self.segmentations:
            self.notes += [f"{task.name}: {note}" for note in task.notes]
            for name in (STUDENT, *self.recipe.evaluate.baselines, *[one.key for one in self.encoders.named]):
                self.check()
                encoder, why = self.encoders.make(name, task.store)
                if encoder is None or not gives_tokens(encoder):
                    why = why or "it gives no patch tokens."
                    self.notes.append(f"{task.name}: {self.title(name)} is left out: {why}")
                    continue
                settings = self.recipe.evaluate
                told = score_segmentation(encoder, task, self.folder / "features", settings, say, self.check)
                self.segmented.append({"task": task.name, "encoder": name, **told})
                say(f"{task.name}: {self.title(name)}: mean Dice {100 * told['dice']['mean']:.1f} %")

    def title(self, name: str) -> str:
        """Return what an encoder is called in tables."""
        return TITLES.get(name) or next(one.title for one in self.encoders.named if one.key == name)

    def _score(self, name: str, task: Task) -> None:
        self.check()
        encoder, why = self.encoders.make(name, task.store)
        if encoder is None:
            self.notes.append(f"{task.name}: {self.title(name)} is left out: {why}")
            say(self.notes[-1])
            return
        settings = self.recipe.evaluate
        features = self._features(encoder, task)
        scored = score_features(features, task, settings, self.draws[task.name])
        if "macro_f1" in scored.drawn:
            self.drawn[task.name, name] = scored.drawn["macro_f1"]
        more = {
            "few_shot": few_shot(scored.data, task.groups[task.positions(TRAIN)], settings),
            "robustness": self._robustness(name, task, scored),
        }
        self.scores.append({"task": task.name, "encoder": name, **scored.told, **more})
        told = {"title": self.title(name), "pooling": f"{encoder.pooling}; input: {encoder.given}"}
        about = self.described.setdefault(name, {**told, "dim": features.shape[1], "identities": {}})
        about["identities"][task.name] = encoder.identity
        if name == STUDENT:
            self._show(task, scored.probability)
            self._map(task, features[task.positions(TEST)])
        mean = scored.told["probe"]["macro_f1"]["mean"]
        say(f"{task.name}: {self.title(name)}: macro F1 {100 * mean:.1f} %")

    def _features(self, encoder: Encoder, task: Task) -> NDArray[np.float32]:
        settings = self.recipe.evaluate
        return features_of(encoder, task, self.folder / "features", settings.encode_batch_size, say, self.check)

    def _robustness(self, name: str, task: Task, scored: Scored) -> dict[str, Json]:
        if not self.recipe.evaluate.corruptions:
            return {}
        encoder, why = self.encoders.seeing(name, task.store)
        if encoder is None:
            self.notes.append(f"{task.name}: {self.title(name)} is not tested on corrupted frames: {why}")
            return {}
        seeing, chosen = encoder, seen_corrupted(task, self.recipe.evaluate)
        tested = only_tested(task, chosen)

        def through(corruption: Corruption) -> NDArray[np.float32]:
            self.check()
            return self._features(Corrupted(seeing, corruption), tested)

        return robustness(scored.probe, scored.data, chosen, self.recipe.evaluate, through)

    def _map(self, task: Task, features: NDArray[np.float32]) -> None:
        self.maps[task.name] = class_map(features, task.labels[task.positions(TEST)], task.classes)
        self._mapped[task.name] = features
        if len(self.tasks) > 1 and len(self._mapped) == len(self.tasks):
            self.maps[""] = dataset_map(self._mapped)

    def _show(self, task: Task, probability: NDArray[np.float64]) -> None:
        examples, note = examples_of(task, probability)
        self.examples += examples
        self.notes += [note] if note else []

    def _hygiene(self) -> list[tuple[str, str]]:
        """Return what must be known beside the scores: test frames seen in training, constant predictors."""
        found = [(task.name, note) for task in self.tasks if (note := seen_in_training(self.run, task))]
        for scores in self.scores:
            constant = scores["probe"]["constant_seeds"]
            if constant:
                told = f"{len(constant)} of {self.recipe.evaluate.seeds} probes on {self.title(scores['encoder'])} give"
                found.append((scores["task"], f"{told} every test frame the same class."))
        return found

    def document(self, inputs: dict[str, Json]) -> dict[str, Json]:
        """Return what scores.json holds, the page's hash aside."""
        groups = {name: draws.groups for name, draws in self.draws.items() if draws is not None}
        return {
            "format": 2,
            "inputs_digest": digest_of(inputs),
            "inputs": inputs,
            "run": {"name": self.run.name, "trained": self.run.config.extra},
            "settings": self.recipe.evaluate.model_dump(mode="json"),
            "encoders": self.described,
            "tasks": [task_told(task, self.facts[task.name]) for task in self.tasks],
            "scores": self.scores,
            "differences": student_differences(groups, self.scores, self.drawn),
            "maps": self.maps,
            "segmentation": {
                "tasks": [
                    {
                        "name": task.name,
                        "classes": list(task.classes),
                        "frames": {part: len(task.positions(part)) for part in (TRAIN, VALIDATION, TEST)},
                        "identity": task.identity,
                    }
                    for task in self.segmentations
                ],
                "scores": self.segmented,
            },
            "notes": self.notes,
            "software": soft_versions(
                ["numpy", "opencv-python-headless", "scikit-image", "scikit-learn", "timm", "torch"]
            ),
        }


def _write(folder: Path, document: dict[str, Json], work: _Work) -> Json:
    """Write page and scores; the scores last, because their presence says that the report is finished."""
    from usjepa.cache.storage import write_durably

    table = scores_csv(document).encode()
    page = render(document, work.run.curve(), work.examples, table).encode()
    write_durably(folder / TABLE, table)
    write_durably(folder / PAGE, page)
    document["page"] = xxhash.xxh3_128_hexdigest(page)
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_durably(folder / SCORES, text.encode())
    return json.loads(text)
