"""Write scores as text: numbers for every table, and tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from usjepa.evaluate.probes.base import PRIMARY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.evaluate.probes.base import ProbeRecord
    from usjepa.evaluate.report.document import Document
    from usjepa.evaluate.scoring.encoder import EncoderScores

UNDERSTATES = "the linear probe understates"
"""Stands in notes about encoders of which the paper's probe shows less than there is."""
FLOOR_TITLE = "Mean mask, no image seen"
"""What the floor of a segmentation is called."""
_MEASURES = {"macro_f1": "macro F1", "auroc": "AUROC"}


class _Spread(Protocol):
    """A mean and its standard deviation, as shares."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        ...

    @property
    def sd(self) -> float | None:
        """None for a predictor without seeds."""
        ...


def percent(share: float) -> str:
    """Return a share as percent with one decimal."""
    return f"{100 * share:.1f}"


def spread(one: _Spread) -> str:
    """Return a mean in percent, with its standard deviation where it has one."""
    return percent(one.mean) if one.sd is None else f"{percent(one.mean)} ± {percent(one.sd)}"


def listed(names: Sequence[str]) -> str:
    """Return names as a person lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def column_name(probe: ProbeRecord, measure: str) -> str:
    """Return the heading of a measure of a probe."""
    return f"{probe.column}: {_MEASURES.get(measure, measure.replace('_', ' '))}"


def aligned_left(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines of text in columns."""
    widths = _widths(lines)
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def _aligned_right(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines of text: all columns but the first to the right."""
    first, *widths = _widths(lines)
    return [
        "  ".join([line[0].ljust(first), *[cell.rjust(w) for cell, w in zip(line[1:], widths, strict=True)]]).rstrip()
        for line in lines
    ]


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]


def scores_text(document: Document) -> list[str]:
    """Return the scores as lines of text: encoders down, tasks across, macro F1 in percent; then Dice."""
    probes = {name: probe for name, probe in document.probes.items() if name == PRIMARY or probe.summary}
    lines = [["macro F1, %"]]
    for task in document.tasks:
        lines[0] += [task.name if name == PRIMARY else probe.column for name, probe in probes.items()]
    for key, encoder in document.encoders.items():
        found = [document.find(task.name, key) for task in document.tasks]
        lines.append([encoder.title, *[_cell(scores, name) for scores in found for name in probes]])
    floors = [cell for task in document.tasks for cell in [percent(task.floor.macro_f1), *[""] * (len(probes) - 1)]]
    lines.append(["Constant guess", *floors])
    notes = [f"note: {note}" for note in document.notes if UNDERSTATES in note]
    return [*_aligned_right(lines), *_dice(document), *notes]


def _cell(scores: EncoderScores | None, probe: str) -> str:
    return spread(scores.probes[probe].measures["macro_f1"]) if scores and probe in scores.probes else "-"


def _dice(document: Document) -> list[str]:
    """Return a line per encoder and segmentation task: mean Dice in percent."""
    lines = []
    for scores in document.segmentation.scores:
        classes = ", ".join(f"{name} {percent(one.mean)}" for name, one in scores.classes.items())
        title = document.title(scores.encoder)
        lines.append(f"Dice, %: {scores.task}: {title}: {spread(scores.dice)} ({classes})")
    for task in document.segmentation.tasks:
        classes = ", ".join(f"{name} {percent(one)}" for name, one in task.floor.classes.items())
        lines.append(f"Dice, %: {task.name}: {FLOOR_TITLE}: {percent(task.floor.mean)} ({classes})")
    return lines
