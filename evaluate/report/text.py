"""Write scores as text: numbers for every table, and tables for the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from usjepa.evaluate.probes.base import PRIMARY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.evaluate.probes.base import ProbeRecord
    from usjepa.evaluate.report.document import Document
    from usjepa.evaluate.report.numbers.records import RegressionTask
    from usjepa.evaluate.scoring.encoder import EncoderScores

UNDERSTATES = "the linear probe understates"
"""Stands in notes about encoders of which the paper's probe shows less than there is."""
FLOOR_TITLE = "Mean mask, no image seen"
"""What the floor of a segmentation is called."""
_MEASURES = {
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "pearson": "Pearson's r",
    "dice": "Dice",
}
MEAN_TITLE = "Mean of the training values"
"""What the floor of a regression is called."""
_SHARES = ("r2", "pearson")
"""Measures of numbers that have no unit."""


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


def plain_number(value: float, measure: str = "mae") -> str:
    """Return a measure of predicted numbers: errors with three digits, R2 and Pearson's r with three decimals."""
    if measure in _SHARES:
        return f"{value:.3f}".replace("-0.000", "0.000")
    return f"{value:,.{_decimals(value)}f}" if value == 0 or abs(value) >= _TINY else f"{value:.2e}"


def number_spread(one: _Spread, measure: str = "mae") -> str:
    """Return a mean of such a measure, with its standard deviation, to as many decimals, where it has one."""
    mean = plain_number(one.mean, measure)
    if one.sd is None:
        return mean
    if measure in _SHARES or 0 < abs(one.mean) < _TINY:
        return f"{mean} ± {plain_number(one.sd, measure)}"
    return f"{mean} ± {one.sd:,.{_decimals(one.mean)}f}"


_TINY = 1e-4
"""Errors below it are written with a power of ten."""


def _decimals(value: float) -> int:
    """Return how many decimals leave three digits."""
    return 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value)) + 1e-9))


def signed(share: float) -> str:
    """Return a difference of shares in points, with its sign; minus as a minus, not a hyphen."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def signed_number(value: float) -> str:
    """Return a difference of errors with its sign; minus as a minus, not a hyphen."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def number_ends(interval: Sequence[float] | None, measure: str) -> str:
    """Return an interval of a measure of numbers, "" where there is none."""
    if interval is None:
        return ""
    low, high = (true_minus(plain_number(end, measure)) for end in interval)
    return f"[{low}, {high}]"


def true_minus(text: str) -> str:
    """Return a number's text with a minus as a minus, not a hyphen."""
    return f"\N{MINUS SIGN}{text[1:]}" if text.startswith("-") else text


def ends(interval: Sequence[float] | None) -> str:
    """Return an interval of shares in percent, "" where there is none."""
    return "" if interval is None else f"[{percent(interval[0])}, {percent(interval[1])}]"


def measure_name(measure: str) -> str:
    """Return what a measure is called."""
    return _MEASURES.get(measure, measure.replace("_", " "))


def listed(names: Sequence[str]) -> str:
    """Return names as a person lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def column_name(probe: ProbeRecord, measure: str) -> str:
    """Return the heading of a measure of a probe."""
    return f"{probe.column}: {measure_name(measure)}"


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
    """Return the scores as lines of text: encoders down, tasks across, macro F1 in percent; then errors, then Dice."""
    notes = [f"note: {note}" for note in document.notes if UNDERSTATES in note]
    parts = [_classes(document)] if document.tasks else []
    parts += [_numbers(document, task) for task in document.regression.tasks]
    parts += [_dice(document)] if document.segmentation.tasks else []
    return [*[line for part in parts for line in part], *notes]


def _classes(document: Document) -> list[str]:
    """Return the table of macro F1."""
    probes = {name: probe for name, probe in document.probes.items() if name == PRIMARY or probe.summary}
    lines = [["macro F1, %"]]
    for task in document.tasks:
        lines[0] += [task.name if name == PRIMARY else probe.column for name, probe in probes.items()]
    for key, encoder in document.encoders.items():
        found = [document.find(task.name, key) for task in document.tasks]
        lines.append([encoder.title, *[_cell(scores, name) for scores in found for name in probes]])
    floors = [cell for task in document.tasks for cell in [percent(task.floor.macro_f1), *[""] * (len(probes) - 1)]]
    lines.append(["Constant guess", *floors])
    return _aligned_right(lines)


def _numbers(document: Document, task: RegressionTask) -> list[str]:
    """Return the table of a regression task: errors in its unit, per probe."""
    probes = {
        name: probe
        for name, probe in document.regression.probes.items()
        if any(name in s.probes for s in document.regression.scores if s.task == task.name)
    }
    columns = [(name, measure) for name, probe in probes.items() for measure in probe.shown]
    lines = [[f"{task.name}{f', {task.unit}' if task.unit else ''} ({task.scored})"]]
    lines[0] += [column_name(probes[name], measure) for name, measure in columns]
    for key, encoder in document.encoders.items():
        scores = document.regression.find(task.name, key)
        if scores is None:
            continue
        found = [(scores.probes[name].measures.get(m) if name in scores.probes else None, m) for name, m in columns]
        lines.append([encoder.title, *["-" if one is None else number_spread(one, m) for one, m in found]])
    floor = [task.floor.measures.get(m) if name == next(iter(probes), "") else None for name, m in columns]
    shown = ["-" if one is None else number_spread(one, m) for one, (_, m) in zip(floor, columns, strict=True)]
    return _aligned_right([*lines, [MEAN_TITLE, *shown]])


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
