"""Draw the figures of an evaluation from its document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from usjepa.cache.pages.curves import Trace, curves_svg
from usjepa.cache.pages.drawing import legend
from usjepa.evaluate.encoders.base import STUDENT
from usjepa.evaluate.report.charts import (
    Axes,
    Line,
    Series,
    lines_svg,
    map_svg,
    reliability_svg,
    scores_svg,
)
from usjepa.evaluate.report.feature_map import RESOLUTION
from usjepa.evaluate.report.numbers.scatter import MOST_POINTS, Scatter, scatter_svg
from usjepa.evaluate.scores.metrics import unpacked
from usjepa.evaluate.scores.regression import unpacked_floats
from usjepa.evaluate.scoring.corruptions import MEANING, STRENGTHS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.evaluate.encoders.finished_run import Curve
    from usjepa.evaluate.report.document import Document, TaskRecord
    from usjepa.evaluate.report.feature_map import FeatureMap
    from usjepa.evaluate.report.numbers.records import RegressionTask
    from usjepa.evaluate.scores.calibration import Calibration
    from usjepa.evaluate.scores.records import Measure
    from usjepa.evaluate.scoring.encoder import EncoderScores
    from usjepa.evaluate.scoring.regression import RegressionScores

_HEADINGS = {"attenuation": "Depth attenuation", "contrast": "Contrast loss", "jpeg": "JPEG"}
_STATES = ("as trained", "with its temperature")
"""Of a probe in the diagram of its calibration; a colour and a mark each."""


@dataclass(frozen=True)
class Captioned:
    """A small chart among several."""

    heading: str
    svg: Markup
    caption: str = ""


def dots(document: Document, task: TaskRecord) -> Markup:
    """Return the plot of scores: a dot per seed of the linear probe, its mean and interval, and k-NN."""
    series = [
        Series(
            document.title(s.encoder),
            tuple(100 * value for value in s.macro_f1.seeds),
            100 * s.probes["knn"].measures["macro_f1"].mean,
            s.encoder == STUDENT,
            None if s.macro_f1.interval is None else _in_percent(s.macro_f1.interval),
        )
        for s in document.ranked(task.name)
    ]
    return Markup(scores_svg(series, 100 * task.floor.macro_f1, f"Macro F1 on {task.name}, percent, by encoder"))


def few_label_curves(document: Document, task: TaskRecord) -> Markup:
    """Return macro F1 over the share of training labels, a curve per encoder, with the legend."""
    scored = _placed(document, task, [s for s in document.scores if s.few_shot])
    shares = [shot.share for shot in scored[0][1].few_shot]
    lines = [_line(document, place, s, [*[shot.macro_f1 for shot in s.few_shot], s.macro_f1]) for place, s in scored]
    ticks = tuple(f"{100 * share:g} %" for share in (*shares, 1.0))
    axes = Axes(ticks, _range(lines), "share of the training labels")
    return Markup(lines_svg(lines, axes, f"Macro F1 on {task.name} by share of labels") + _legend(lines))


def corruption_charts(document: Document, task: TaskRecord) -> list[Captioned]:
    """Return a chart per corruption: macro F1 over strength, a curve per encoder, all in one range."""
    charts = _corrupted(document, task)
    value_range = _range([line for lines in charts.values() for line in lines])
    axes = Axes(("clean", *map(str, STRENGTHS)), value_range, width=260)
    return [
        Captioned(
            _HEADINGS.get(name, name.capitalize()),
            Markup(lines_svg(lines, axes, f"Macro F1 under {name}")),
            MEANING[name],
        )
        for name, lines in charts.items()
    ]


def corruption_legend(document: Document, task: TaskRecord) -> Markup:
    """Return what the curves of `corruption_charts` stand for."""
    return Markup(_legend(next(iter(_corrupted(document, task).values()))))


def reliability_diagram(calibration: Calibration, label: str) -> Markup:
    """Return share of frames right over confidence, a curve for each state of the probe."""
    states = [state for state in (calibration.raw, calibration.tempered) if state is not None]
    return Markup(reliability_svg([(place, state.diagram) for place, state in enumerate(states)], label))


def reliability_legend(calibration: Calibration) -> Markup:
    """Return what the curves of `reliability_diagram` stand for."""
    shown = _STATES if calibration.tempered is not None else _STATES[:1]
    return Markup(legend(list(enumerate(shown)), curves=True))


def scatters(document: Document, task: RegressionTask, shown: Sequence[RegressionScores]) -> list[Captioned]:
    """Return a chart for each of some encoders: predicted against true numbers, all in one range."""
    true_N = unpacked_floats(task.test.values)
    said = [np.mean([unpacked_floats(one) for one in s.primary.predicted], axis=0) for s in shown]
    every = np.concatenate([true_N, *said, [task.floor.value]])
    named = f"{task.quantity}, {task.unit}" if task.unit else task.quantity
    order = list(document.encoders)
    return [
        Captioned(
            f"{document.title(s.encoder)}: predicted",
            Markup(
                scatter_svg(
                    Scatter(
                        true_N,
                        predicted_N,
                        task.floor.value,
                        (float(every.min()), float(every.max())),
                        order.index(s.encoder),
                        f"true {named}",
                    ),
                    f"Predicted against true {named} on {task.name}: {document.title(s.encoder)}",
                )
            ),
        )
        for s, predicted_N in zip(shown, said, strict=True)
    ]


def shown_points(task: RegressionTask) -> tuple[int, int]:
    """Return how many points a chart of `scatters` has, and of how many."""
    count = len(task.test.groups.split())
    return min(count, MOST_POINTS), count


def map_figure(found: FeatureMap, of: str, noun: str) -> Markup:
    """Return the map of the run's features, a mark per frame, with the legend of the kinds that occur."""
    kinds = unpacked(found.kind).tolist()
    x, y = unpacked(found.x).tolist(), unpacked(found.y).tolist()
    names = [(place, name) for place, name in enumerate(found.names) if place in kinds]
    figure = map_svg(x, y, kinds, RESOLUTION, f"Map of the {noun}'s features, by {of}")
    return Markup(figure + legend(names, curves=False))


def loss_figure(curve: Curve) -> Markup:
    """Return the run's loss over epochs, with the legend."""
    traces = [Trace("training", 0, curve.train), Trace("held-out patients", 1, curve.validation)]
    traces = [one for one in traces if one.points]
    drawn = curves_svg(traces, "epoch", "Loss over epochs in training and on held-out patients")
    return Markup(f"{legend([(one.place, one.name) for one in traces], curves=True)}<figure>{drawn}</figure>")


def _corrupted(document: Document, task: TaskRecord) -> dict[str, list[Line]]:
    """Return the curves of each corruption."""
    charts: dict[str, list[Line]] = {}
    for place, s in _placed(document, task, [s for s in document.scores if s.robustness]):
        assert s.robustness is not None
        for name, strengths in s.robustness.corruptions.items():
            values = [s.robustness.clean, *[at.macro_f1 for at in strengths]]
            charts.setdefault(name, []).append(_line(document, place, s, values))
    return charts


def _placed(document: Document, task: TaskRecord, among: Sequence[EncoderScores]) -> list[tuple[int, EncoderScores]]:
    """Return a task's scores among some, each with the encoder's place in the page's colours, in that order."""
    here = {s.encoder: s for s in among if s.task == task.name}
    return [(place, here[key]) for place, key in enumerate(document.encoders) if key in here]


def _line(document: Document, place: int, scores: EncoderScores, values: Sequence[Measure]) -> Line:
    points = tuple((i, 100 * value.mean, 100 * (value.sd or 0.0)) for i, value in enumerate(values))
    return Line(document.title(scores.encoder), place, points)


def _legend(lines: Sequence[Line]) -> str:
    return legend([(line.place, line.name) for line in lines], curves=True)


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    values = [value for line in lines for _, mean, sd in line.points for value in (mean - sd, mean + sd)]
    return max(0.0, min(values)), min(100.0, max(values))


def _in_percent(interval: tuple[float, float]) -> tuple[float, float]:
    return 100 * interval[0], 100 * interval[1]
