"""The report's parts on few labels, corrupted frames and the map of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.evaluate.report.charts import Line, legend, lines_svg, map_svg
from usjepa.evaluate.report.feature_map import RESOLUTION
from usjepa.evaluate.report.markup import find, percent, signed, table, text, title
from usjepa.evaluate.scores.metrics import unpacked
from usjepa.evaluate.scoring.corruptions import MEANING, STRENGTHS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.identity import Json


_HEADINGS = {"attenuation": "Depth attenuation", "contrast": "Contrast loss", "jpeg": "JPEG"}


def few_labels(document: Json, task: Json) -> str:
    """Return the few-shot curves of a task; "" where none were measured."""
    scored = _scored(document, task["name"], "few_shot")
    if not scored:
        return ""
    shots = scored[0][1]["few_shot"]
    ticks = [f"{100 * shot['share']:g} %" for shot in shots] + ["100 %"]
    lines = []
    for place, scores in scored:
        values = [shot["macro_f1"] for shot in scores["few_shot"]] + [scores["probe"]["macro_f1"]]
        points = tuple((i, 100 * value["mean"], 100 * value["sd"]) for i, value in enumerate(values))
        lines.append(Line(title(document, scores["encoder"]), place, points))
    figure = lines_svg(
        lines, ticks, "share of the training labels", f"Macro F1 on {task['name']} by share of labels", _range(lines)
    )
    smallest = shots[0]
    return (
        f"<h3>With few labels</h3><figure>{figure}{_legend(lines)}<figcaption>Macro F1 in percent: mean and standard "
        f"deviation over {len(smallest['macro_f1']['seeds'])} draws of labelled frames, class by class, at least one "
        f"of each. {100 * smallest['share']:g} % are {smallest['frames']} frames of {_span(smallest['groups'])} "
        "patients or clips. Early stopping still sees all validation labels.</figcaption></figure>"
    )


def corrupted(document: Json, task: Json) -> str:
    """Return the drop curves of a task, a chart for each corruption, and a table; "" where none were measured."""
    scored = _scored(document, task["name"], "robustness")
    if not scored:
        return ""
    names = list(scored[0][1]["robustness"]["corruptions"])
    charts = {name: [_drop(document, place, scores, name) for place, scores in scored] for name in names}
    span = _range([line for lines in charts.values() for line in lines])
    ticks = ["clean", *map(str, STRENGTHS)]
    figures = "".join(
        f"<figure><h4>{text(_HEADINGS.get(name, name.capitalize()))}</h4>"
        f"{lines_svg(lines, ticks, '', f'Macro F1 under {name}', span, width=260)}"
        f"<figcaption>{text(MEANING[name])}</figcaption></figure>"
        for name, lines in charts.items()
    )
    count = scored[0][1]["robustness"]["frames"]
    return (
        f'<h3>On corrupted frames</h3>{_legend(next(iter(charts.values())))}<div class="multiples">{figures}</div>'
        f'<p class="quiet">Macro F1 in percent on {count} test frames, of probes that were '
        "trained on clean frames, by strength of the corruption: mean and standard deviation over the probe's seeds. "
        "Lengths are pixels of the stored frame.</p>"
        f"{_drops(document, scored, names)}"
    )


def _drop(document: Json, place: int, scores: Json, corruption: str) -> Line:
    told = scores["robustness"]
    values = [told["clean"], *[at["macro_f1"] for at in told["corruptions"][corruption]]]
    points = tuple((i, 100 * value["mean"], 100 * value["sd"]) for i, value in enumerate(values))
    return Line(title(document, scores["encoder"]), place, points)


def _drops(document: Json, scored: Sequence[tuple[int, Json]], names: Sequence[str]) -> str:
    """Return the table of what is lost at the greatest strength."""
    lines = []
    for _, scores in scored:
        told = scores["robustness"]
        lost = [told["corruptions"][name][-1]["macro_f1"]["mean"] - told["clean"]["mean"] for name in names]
        lines.append((title(document, scores["encoder"]), [signed(value) for value in lost], ""))
    head = ["Change at strength 3, points", *map(text, names)]
    return table(head, lines, "measures")


def feature_map(found: Json, heading: str, of: str) -> str:
    """Return a map of features; "" where there is none."""
    if found is None:
        return ""
    kinds = unpacked(found["kind"]).tolist()
    x, y = unpacked(found["x"]).tolist(), unpacked(found["y"]).tolist()
    names = [(place, name) for place, name in enumerate(found["names"]) if place in kinds]
    figure = map_svg(x, y, kinds, RESOLUTION, f"Map of the student's features, by {of}")
    shown = f"{len(x)} of {found['frames']} test frames" if len(x) < found["frames"] else f"{len(x)} test frames"
    return (
        f"<h3>{text(heading)}</h3><figure>{figure}{legend(names, curves=False)}<figcaption>{shown}, by {of}. "
        "The two directions in which the student's standardised features vary most (PCA); they show "
        f"{percent(sum(found['explained']))} % of the variation. Classes that mix here may still be told apart in the "
        "directions that are not shown.</figcaption></figure>"
    )


def _scored(document: Json, task: str, what: str) -> list[tuple[int, Json]]:
    """Return the encoders that have such scores on a task, each with its place in the page's colours."""
    found = [(place, find(document, task, key)) for place, key in enumerate(document["encoders"])]
    return [(place, scores) for place, scores in found if scores and scores[what]]


def _legend(lines: Sequence[Line]) -> str:
    return legend([(line.place, line.name) for line in lines], curves=True)


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    values = [value for line in lines for _, mean, sd in line.points for value in (mean - sd, mean + sd)]
    return max(0.0, min(values)), min(100.0, max(values))


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
