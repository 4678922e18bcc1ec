"""Draw the curves of a run from the history of its log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from usjepa.cache.pages.curves import Trace, curves_svg, thinned
from usjepa.cache.pages.drawing import legend
from usjepa.train.record.history import OF_TARGET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usjepa.cache.pages.curves import Points
    from usjepa.train.record.history import History, LossCurve
    from usjepa.train.record.lines import ValidationLine

_NO_MEASURES = ("kind", "epoch", "step", "loss", "images", "unusable", "best", "losses", "sum")
"""Fields of a validation that are drawn elsewhere, or not at all."""
_TITLES = {
    "knn": "k-NN on held-out groups, macro F1",
    "rankme": "RankMe of the features",
    "feature_std": "Spread of the features",
    "partner_cosine": "Likeness of pairs",
    "other_cosine": "Likeness of others",
    "target_mean": "Mean of the targets",
    "target_std": "Spread of the targets",
}
_MEANING = {
    "rankme": "How many directions the features use. It should rise or stay; a steep fall is the sign of a collapse.",
    "feature_std": "Standard deviation of the features over held-out frames. Near 0, every frame looks the same.",
    "target_mean": "Over all elements of the target patches, as the loss sees them.",
    "target_std": "Over all elements of the target patches, as the loss sees them.",
    "partner_cosine": "Mean cosine of images that belong together: it should rise.",
    "other_cosine": "Mean cosine of images to be told apart: it should stay well below that of pairs.",
    "knn": "Whether the nearest training frames of held-out frames have their label: 1 is faultless.",
}
FOREIGN = "Probe on the foreign set, macro F1"
_FOREIGN_MEANING = (
    "How well its classes are told apart, on patients that are not fitted on; epoch 0: before training. Changes within "
    "the deviation, which the log has, are chance."
)
_PACE_POINTS = 100
"""Of curves that jump from step to step."""
_PROBES = ("knn", "probe")
"""How the names of scores on labels begin."""


@dataclass(frozen=True)
class Figure:
    """A chart with what it says."""

    title: str
    svg: Markup
    meaning: str = ""
    legend: Markup | str = ""
    """Escaped markup, or nothing."""


def loss_figures(history: History, steps_per_epoch: int) -> Iterator[Figure]:
    """Yield the loss in training and on held-out groups; then, of several targets, each one's."""
    trained = [("training", _by_epoch(history.curve, steps_per_epoch))] if history.totals.steps else []
    held = [(line["epoch"] + 1.0, line["loss"]) for line in history.checks]
    meaning = (
        "A validation loss that rises while the training loss falls means that the encoder memorises its training "
        "patients."
    )
    yield from _figure("Loss", [*trained, ("held-out patients", held)], meaning if held else "")
    for name, curve in history.series.items():
        if name.startswith(OF_TARGET):
            target = name.removeprefix(OF_TARGET)
            own = [(line["epoch"] + 1.0, line["losses"][target]) for line in history.checks if target in _losses(line)]
            pair = [("training", _by_epoch(curve, steps_per_epoch)), ("held-out patients", own)]
            yield from _figure(f"Loss of {target}", pair)


def measure_figures(history: History, probes: bool) -> Iterator[Figure]:
    """Yield what validations measured beside the loss, a chart each: scores on labels, or the rest."""
    found: dict[str, Points] = {}
    for line in history.checks:
        for name, value in measures_of(line):
            found.setdefault(name, []).append((line["epoch"] + 1.0, value))
    for name, points in sorted(found.items(), key=lambda one: _rank(one[0])):
        if name.startswith(_PROBES) == probes:
            yield from _figure(title_of(name), [(name, points)], _MEANING.get(name, ""))
    if probes:
        yield from _foreign_figure(history)


def _foreign_figure(history: History) -> Iterator[Figure]:
    """Yield the scores on the set of `train.probe`, from before the first step on."""
    fields: tuple[tuple[str, Literal["macro_f1", "knn"]], ...] = (("logistic regression", "macro_f1"), ("k-NN", "knn"))
    curves = [(title, [(line["epoch"] + 1.0, line[name]) for line in history.probes]) for title, name in fields]
    yield from _figure(FOREIGN, curves, _FOREIGN_MEANING)


def pace_figures(history: History, steps_per_epoch: int) -> Iterator[Figure]:
    """Yield the share of time spent waiting for data, the learning rate and the norm of the gradient."""
    series = history.series
    if "seconds" in series:
        pairs = zip(*series["seconds"].points(), series["waited_s"].points()[1], strict=True)
        shares = [((at + 1) / steps_per_epoch, 100 * waited / max(seconds, 1e-9)) for at, seconds, waited in pairs]
        meaning = "Of each step's time. Above 10 %, the store is too slow for the model."
        yield from _figure("Waiting for data, %", [("waiting", thinned(shares, _PACE_POINTS))], meaning)
    for name, title, meaning in (
        ("lr", "Learning rate", ""),
        ("grad_norm", "Norm of the gradient", "Before it is clipped."),
    ):
        if name in series:
            points = thinned(_by_epoch(series[name], steps_per_epoch), _PACE_POINTS)
            yield from _figure(title, [(title, points)], meaning)


def measures_of(line: ValidationLine) -> Iterator[tuple[str, float]]:
    """Yield every number that a validation measured beside the loss, those of nested fields as `name: part`."""
    for name, value in line.items():
        if name in _NO_MEASURES:
            continue
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, one in parts:
            if isinstance(one, int | float) and not isinstance(one, bool):
                yield f"{name}: {part}" if part else name, float(one)


def _rank(name: str) -> int:
    """Return where a measure stands: those that are known in their order, then the others as they came."""
    first = name.partition(": ")[0]
    return list(_TITLES).index(first) if first in _TITLES else len(_TITLES)


def title_of(name: str) -> str:
    """Return what a measure is called."""
    first, _, rest = name.partition(": ")
    return _TITLES.get(first, first.replace("_", " ").capitalize()) + (f": {rest}" if rest else "")


def _figure(title: str, curves: Sequence[tuple[str, Points]], meaning: str = "") -> Iterator[Figure]:
    """Yield a chart of the curves that have a point; none where none has."""
    traces = [Trace(name, place, points) for place, (name, points) in enumerate(curves) if points]
    if traces:
        names = legend([(one.place, one.name) for one in traces], curves=True) if len(curves) > 1 else ""
        yield Figure(title, Markup(curves_svg(traces, "epoch", title)), meaning, Markup(names))


def _by_epoch(curve: LossCurve, steps_per_epoch: int) -> Points:
    return [((step + 1) / steps_per_epoch, value) for step, value in zip(*map(list, curve.points()), strict=True)]


def _losses(line: ValidationLine) -> dict[str, float]:
    return line.get("losses", {})
