"""The page's section on segmentation: mean Dice by encoder and class, with its interval over patients."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from usjepa.evaluate.report.markup import note_list

if TYPE_CHECKING:
    from usjepa.cache.identity import Json


def segmentation_html(document: Json) -> str:
    """Return the section, "" where nothing was segmented."""
    found = document.get("segmentation", {"tasks": [], "scores": []})
    return "".join(_task(document, task, found["scores"]) for task in found["tasks"])


def _task(document: Json, task: Json, scores: Json) -> str:
    names = task["classes"][1:]
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("Mean", "95 % interval", *names))
    rows = "".join(
        _row(document["encoders"][scored["encoder"]]["title"], scored, names)
        for scored in scores
        if scored["task"] == task["name"]
    )
    frames = ", ".join(f"{count} frames for {part}" for part, count in task["frames"].items())
    return (
        f"<h2>Segmentation: {html.escape(task['name'])}</h2><p>{html.escape(frames)}.</p>{note_list(task['notes'])}"
        f'<div class="scroll"><table class="scores"><thead><tr><th scope="col">Dice, %</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="quiet">A linear layer on frozen patch tokens says the class of every pixel. Dice by frame, mean '
        "over test frames that hold a class or were said to; mean ± standard deviation over seeds. The interval draws "
        "test patients anew.</p>"
    )


def _row(title: str, scored: Json, names: list[str]) -> str:
    dice = scored["dice"]
    cells = [
        f"{100 * dice['mean']:.1f} ± {100 * dice['sd']:.1f}",
        f"{100 * dice['low']:.1f} to {100 * dice['high']:.1f}",
    ]
    cells += [f"{100 * scored['classes'][name]['mean']:.1f}" for name in names]
    told = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{html.escape(title)}</th>{told}</tr>'
