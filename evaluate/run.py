"""Evaluate a run's encoder and its rivals on labelled tasks, and write the report.

Features are kept under OUT/features, frames cut for a task under OUT/tasks; `scores.json` is written last and names
everything the page rests on, so a second call with the same inputs finds the report finished and redoes nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.errors import UsageError
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.storage.durable import check_output, write_durably
from usjepa.evaluate.encoders.base import STUDENT
from usjepa.evaluate.encoders.encoders import Encoders
from usjepa.evaluate.encoders.features import KeptFeatures
from usjepa.evaluate.encoders.finished_run import open_run
from usjepa.evaluate.encoders.tokens import TokenSource
from usjepa.evaluate.report.answer.shown import three_frames, three_numbers
from usjepa.evaluate.report.compose import compose
from usjepa.evaluate.report.document import SCORES, is_document, read_document
from usjepa.evaluate.report.examples import examples_of
from usjepa.evaluate.report.latex import table_tex
from usjepa.evaluate.report.page import render
from usjepa.evaluate.report.scores_csv import scores_csv
from usjepa.evaluate.scores.regression import unpacked_floats
from usjepa.evaluate.scoring.evaluation import Evaluation, wanted_probes
from usjepa.evaluate.scoring.inputs import Inputs
from usjepa.evaluate.scoring.items import Items
from usjepa.evaluate.tasks.crossing import add_crossed
from usjepa.evaluate.tasks.find import open_tasks
from usjepa.evaluate.tasks.regression import open_regressions
from usjepa.evaluate.tasks.segmentation import open_segmentations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.report.answer.shown import Shown
    from usjepa.evaluate.report.document import Document
    from usjepa.evaluate.report.examples import Example
    from usjepa.evaluate.scoring.evaluation import Results
    from usjepa.evaluate.tasks.task import Task

logger = logging.getLogger(__name__)

TABLE, LATEX, PAGE, FEATURES = "scores.csv", "table.tex", "index.html", "features"
_GO_ON = "Features computed so far are kept: run the same command again to go on."


def evaluate(
    run_dir: str,
    tasks: Sequence[str],
    out: str,
    recipe: Recipe,
    *,
    device: str | None = None,
    encoders: Sequence[str] = (),
    segmentations: Sequence[str] = (),
    regressions: Sequence[str] = (),
    crossed: Sequence[tuple[str, str]] = (),
    keep: str | None = None,
) -> Document:
    """Score a run's encoder and the recipe's baselines on tasks, write OUT/index.html and its tables.

    Args:
        run_dir: a finished training run.
        tasks: stores, or folders and manifests that stage one can read; `PATH::DATASET` picks one dataset.
        out: folder of the report.
        recipe: its `evaluate` section is the protocol, its `cache` section cuts tasks that are no stores yet.
        device: torch device of the encoders; None: a GPU where there is one.
        encoders: scored beside the run's own: runs, checkpoints, timm names (see `named.py`).
        segmentations: frames with masks, for a linear head on patch tokens (see `segmentation.py`).
        regressions: frames with a number each, for ridge regression (see `tasks/regression.py`).
        crossed: pairs of places to train on and to test on (see `tasks/crossing.py`).
        keep: folder of features and cut frames, which other reports use too; None: `out`.

    Returns:
        The document that scores.json holds.

    Raises:
        UsageError: nothing to score on, the run has not finished training, a task can't be found or scored, or `out`
            holds something else.
        Interrupted: SIGINT or SIGTERM; features computed so far stay for the next call.
        UsjepaError: damage in the run or in a task's store.
    """
    if not (tasks or regressions or segmentations or crossed):
        raise UsageError("nothing to score on: give --task, --regress or --segment, or --train-task with --test-task.")
    places = (*tasks, *segmentations, *regressions, *(place for pair in crossed for place in pair))
    _refuse_odd_names((run_dir, *places, *encoders))
    run, folder = open_run(Path(run_dir)), Path(out)
    kept_in = folder if keep is None else Path(keep)
    curve = run.curve()  # damage in its log is found before hours of scoring, not after
    _refuse_foreign(folder)
    inputs = Inputs(
        run,
        recipe,
        Encoders(run, recipe, device, tuple(encoders)),  # before frames are cut: an unknown name is refused at once
        wanted_probes(recipe.evaluate),
        add_crossed(open_tasks(tasks, kept_in, recipe), crossed, kept_in, recipe),
        tuple(open_segmentations(segmentations, kept_in, recipe)),
        tuple(open_regressions(regressions, kept_in, recipe)),
    )
    finished = _finished(folder, inputs.digest)
    if finished is not None:
        logger.info(f"{folder / PAGE}: finished by an earlier call with the same inputs; nothing is done again.")
        return finished
    with graceful_interrupts(_GO_ON):
        kept = KeptFeatures(kept_in / FEATURES, inputs.settings.encode_batch_size)
        results = Evaluation(inputs, kept).run()
        shown = _shown(inputs, results, kept)
    document = compose(inputs, results)
    page = render(document, curve, _examples(inputs, results), scores_csv(document).encode(), shown)
    return _write(folder, document, page)


def _refuse_odd_names(names: Sequence[str]) -> None:
    """Raise UsageError for a name that is not UTF-8: the report names runs and encoders, and could not be written."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{name}: this name is not UTF-8, and a report states it. Rename it.") from error


def _refuse_foreign(folder: Path) -> None:
    """Raise UsageError where a report would replace what is no report's."""
    for name in (PAGE, TABLE, LATEX, SCORES):
        check_output(folder / name)
    found = [name for name in (PAGE, TABLE, LATEX, SCORES) if (folder / name).exists()]
    if found and not (folder / FEATURES).is_dir() and not is_document(folder / SCORES):
        raise UsageError(
            f"-o {folder}: holds {', '.join(found)} of something else, which a report would replace. Give a new "
            "folder, or that of an earlier report."
        )


def _finished(folder: Path, digest: str) -> Document | None:
    """Return an earlier call's document if its inputs are these and its files are whole."""
    if not (folder / SCORES).exists():
        return None
    try:
        document = read_document(folder / SCORES)
        files = {name: _hash((folder / name).read_bytes()) for name in (PAGE, TABLE, LATEX)}
    except FileNotFoundError:
        return None
    except UsageError as error:
        logger.info(f"{error} It is made again now.")
        return None
    return document if document.inputs_digest == digest and document.files == files else None


def _write(folder: Path, document: Document, page: str) -> Document:
    """Write page, tables and scores; the scores last, because their presence shows that the report is finished."""
    files = {PAGE: page.encode(), TABLE: scores_csv(document).encode(), LATEX: table_tex(document).encode()}
    for name, content in files.items():
        write_durably(folder / name, content)
    document = document.model_copy(update={"files": {name: _hash(content) for name, content in files.items()}})
    write_durably(folder / SCORES, document.to_json())
    return document


def _examples(inputs: Inputs, results: Results) -> list[Example]:
    """Return the frames that the page shows: what the student recognises and what it mistakes."""
    tasks = {task.name: task for task in inputs.found.tasks}
    students = [one for one in results.scored if one.record.encoder == STUDENT]
    return [
        example
        for one in students
        if one.probability_NC is not None
        for example in examples_of(tasks[one.record.task], one.probability_NC)
    ]


def _shown(inputs: Inputs, results: Results, kept: KeptFeatures) -> list[Shown]:
    """Return the frames of the first screen: of the first task whose frames may be shown; classes before numbers."""
    tasks = {task.name: task for task in inputs.found.tasks}

    def tokens(frames: Task) -> NDArray[np.float32] | None:
        encoder, _ = inputs.encoders.make(STUDENT, frames.store)
        source = None if encoder is None else TokenSource(encoder, kept)
        return source.tokens(frames) if source is not None and source.available else None

    for one in results.scored:
        if one.record.encoder == STUDENT and one.probability_NC is not None:
            found = three_frames(tasks[one.record.task], one.probability_NC, tokens)
            if found:
                return found
    for result in results.regressed:
        for scored in result.scored:
            if scored.record.encoder == STUDENT:
                items = Items(result.task, inputs.settings)
                said = np.mean([unpacked_floats(one) for one in scored.record.primary.predicted], axis=0)
                found = three_numbers(items, said, tokens)
                if found:
                    return found
    return []


def _hash(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)
