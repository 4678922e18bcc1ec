"""Small pieces that every part of the report's page is made of: escaped text, numbers, tables, notes, scores found."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usjepa.cache.identity import Json

STUDENT = "student"


@dataclass(frozen=True)
class Example:
    """A test frame and what the student's probes make of it."""

    task: str
    truth: str
    predicted: str
    confidence: float
    """Mean probability of the predicted class over the probes."""
    image: str
    """Data URI."""


def text(value: object) -> str:
    """Return a value as text that no browser takes for markup."""
    return html.escape(str(value), quote=True)


def percent(fraction: float) -> str:
    """Return a share as percent with one decimal."""
    return f"{100 * fraction:.1f}"


def signed(fraction: float) -> str:
    """Return a difference of shares in points, with its sign; minus as a minus, not a hyphen."""
    return f"{100 * fraction:+.1f}".replace("-", "\N{MINUS SIGN}")


def ends(interval: Sequence[float] | None, told: str = "") -> str:
    """Return an interval of shares in percent, "" where there is none."""
    return "" if interval is None else f"{told}[{percent(interval[0])}, {percent(interval[1])}]"


def listed(names: Sequence[str]) -> str:
    """Return names as a person lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def note_list(notes: Iterable[str]) -> str:
    """Return notes in a box that can't be overlooked; "" for none."""
    lines = "".join(f"<li>{text(note)}</li>" for note in notes)
    return f'<div class="note"><ul>{lines}</ul></div>' if lines else ""


def table(head: Sequence[str], lines: Iterable[tuple[str, Sequence[str], str]], kind: str) -> str:
    """Return a table that scrolls within itself on a phone.

    Args:
        head: cells of the first line, HTML.
        lines: name, cells (HTML), CSS class; the name is escaped.
        kind: CSS class of the table.
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr class="{line_kind}"><th scope="row">{text(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells, line_kind in lines
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def find(document: Json, task: str, encoder: str) -> Json:
    """Return the scores of an encoder on a task, None where it has none."""
    return next((s for s in document["scores"] if s["task"] == task and s["encoder"] == encoder), None)


def ranked(document: Json, task: str) -> list[Json]:
    """Return a task's scores, best mean macro F1 first; equal ones in the table's order."""
    here = [s for s in document["scores"] if s["task"] == task]
    return sorted(here, key=lambda s: -float(s["probe"]["macro_f1"]["mean"]))


def title(document: Json, encoder: str) -> str:
    """Return what an encoder is called in tables."""
    found: str = document["encoders"][encoder]["title"]
    return found
