"""`usjepa-evaluate`: a run's encoder and its rivals on labelled tasks, and the report. A finished report is kept.

Features are kept under OUT/features, frames cut for a task under OUT/tasks; `scores.json` is written last and names
everything the page rests on, so a second call with the same inputs finds the report finished and redoes nothing.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from usjepa.cache.identity import Json, digest_of
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.recipes.marks import hard_values
from usjepa.evaluate.encoders.encoders import Encoders
from usjepa.evaluate.encoders.features import FEATURES_VERSION
from usjepa.evaluate.encoders.finished_run import open_run
from usjepa.evaluate.report.latex import table_tex
from usjepa.evaluate.report.report import render
from usjepa.evaluate.report.scores_csv import scores_csv
from usjepa.evaluate.tasks.find import open_tasks
from usjepa.evaluate.tasks.segmentation import open_segmentations
from usjepa.evaluate.work import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.encoders.finished_run import Run
    from usjepa.evaluate.tasks.find import Found
    from usjepa.evaluate.tasks.segmentation import Segmentation

logger = logging.getLogger(__name__)

REPORT_VERSION = 4
"""Raised when the same inputs would give another page or other scores."""

SCORES, TABLE, LATEX, PAGE = "scores.json", "scores.csv", "table.tex", "index.html"
GO_ON = "Features computed so far are kept: run the same command again to go on."


def evaluate(
    run_dir: str,
    tasks: Sequence[str],
    out: str,
    recipe: Recipe,
    device: str | None = None,
    encoders: Sequence[str] = (),
    segmentations: Sequence[str] = (),
) -> Json:
    """Score a run's encoder and the recipe's baselines on tasks, write OUT/index.html and its tables.

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
        logger.info(f"{folder / PAGE}: finished by an earlier call with the same inputs; nothing is done again.")
        return finished
    with graceful_interrupts() as stop:
        work = Work(run, opened, recipe, folder, made, lambda: stop.check(GO_ON), masked)
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
        "settings": hard_values(recipe.evaluate, "evaluation"),
        "teacher": None if teacher is None else hard_values(teacher, "evaluation"),
    }


def _finished(folder: Path, digest: str) -> Json | None:
    """Return an earlier call's document if its inputs are these and its files are whole."""
    try:
        document = json.loads((folder / SCORES).read_text())
        files = {name: xxhash.xxh3_128_hexdigest((folder / name).read_bytes()) for name in (PAGE, TABLE, LATEX)}
        same = document["inputs_digest"] == digest and document["files"] == files
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        logger.info(f"{folder / SCORES}: can't be read as a report's scores: making the report again.")
        return None
    return document if same else None


def _write(folder: Path, document: dict[str, Json], work: Work) -> Json:
    """Write page, tables and scores; the scores last, because their presence says that the report is finished."""
    from usjepa.cache.storage.durable import write_durably

    table = scores_csv(document).encode()
    page = render(document, work.run.curve(), work.examples, table).encode()
    files = {PAGE: page, TABLE: table, LATEX: table_tex(document).encode()}
    for name, content in files.items():
        write_durably(folder / name, content)
    document["files"] = {name: xxhash.xxh3_128_hexdigest(content) for name, content in files.items()}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_durably(folder / SCORES, text.encode())
    return json.loads(text)
