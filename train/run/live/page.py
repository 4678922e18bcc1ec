"""Render a run's page from the history of its log."""

from __future__ import annotations

import base64
import datetime
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from usjepa.cache.pages.environment import Section, open_templates
from usjepa.train.record.summary import signs, summary
from usjepa.train.run.live.figures import FOREIGN, loss_figures, measure_figures, measures_of, pace_figures, title_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from usjepa.train.record.history import History

RUNNING, STOPPED, FINISHED, FAILED = "running", "stopped", "finished", "failed"
GENERATOR = "usjepa-train"
"""Stands in every page: an `index.html` without it is another's."""
RELOAD_S = 20
_KINDS = {RUNNING: "busy", STOPPED: "", FINISHED: "good", FAILED: "bad"}
_PARTS = (("losses", "Losses"), ("probes", "Scores on labels"), ("features", "Features"), ("pace", "Pace"))
_HERE = "usjepa.train.run.live"


@dataclass(frozen=True)
class About:
    """What stays the same of a run."""

    name: str
    epochs: int
    steps_per_epoch: int
    described: tuple[str, ...]
    """Lines for a person: sizes, targets, device."""
    recipe: tuple[tuple[str, str], ...]
    identity: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Moment:
    """When the page is written, and how the run stands then."""

    state: str
    """One of `RUNNING`, `STOPPED`, `FINISHED`, `FAILED`."""
    seconds: float
    """Since 1970."""
    left_s: float | None = None
    """What the run still takes; None: not known."""
    expected_s: float = 300.0
    """After so many seconds without a newer page, a run that goes on has been killed, or hangs."""
    why: str = ""
    """It ended."""

    @property
    def alive(self) -> bool:
        """Whether a newer page will come."""
        return self.state == RUNNING

    @property
    def kind(self) -> str:
        """Which dress the state wears."""
        return _KINDS[self.state]

    @property
    def written(self) -> str:
        """For a browser that runs no scripts."""
        return datetime.datetime.fromtimestamp(self.seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")

    @property
    def written_ms(self) -> int:
        """For the script that says the page's age."""
        return round(1000 * self.seconds)


def render(about: About, history: History, moment: Moment) -> str:
    """Return the page; the same arguments give the same text."""
    total = about.epochs * about.steps_per_epoch
    script = _script()
    figures = {
        "losses": loss_figures(history, about.steps_per_epoch),
        "probes": measure_figures(history, probes=True),
        "features": measure_figures(history, probes=False),
        "pace": pace_figures(history, about.steps_per_epoch),
    }
    nothing = {
        "losses": "No step is done yet.",
        "probes": "The held-out frames have no labels, or nothing was validated yet.",
        "features": "Nothing was validated yet.",
        "pace": "No step is done yet.",
    }
    ended = moment.state == FINISHED
    return (
        _environment()
        .get_template("run.html")
        .render(
            about=about,
            moment=moment,
            history=history,
            total=total,
            percent_done=100 * history.steps // max(1, total),
            answer=_answer(about, history, moment),
            left="" if moment.left_s is None or not moment.alive else duration(moment.left_s),
            numbers=_numbers(history, about, moment),
            signs=[] if ended else [_sentence(one) for one in signs(history)],
            summary=[_sentence(one) for one in summary(history, about.epochs)] if ended else [],
            parts=[(key, title, list(figures[key]), nothing[key]) for key, title in _PARTS],
            sections=[
                Section("now", "Now" if moment.alive else "Where it ended"),
                *(Section(key, title) for key, title in _PARTS),
                Section("recipe", "Recipe and identity"),
            ],
            generator=GENERATOR,
            reload_s=RELOAD_S,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    return open_templates(_HERE)


@cache
def _script() -> str:
    return (files(_HERE) / "templates" / "age.js").read_text(encoding="utf-8")


def _answer(about: About, history: History, moment: Moment) -> str:
    """Return in one sentence how far the run is."""
    total = about.epochs * about.steps_per_epoch
    epoch = min(history.steps // about.steps_per_epoch + 1, about.epochs)
    place = f"step {history.steps:,} of {total:,} (epoch {epoch:,} of {about.epochs:,})"
    if moment.state == FINISHED:
        epochs = "The one epoch is" if about.epochs == 1 else f"All {about.epochs:,} epochs are"
        losses = [line["loss"] for line in history.checks]
        if not losses:
            return f"{epochs} done, and the last encoder is exported."
        best = int(np.argmin(losses))
        epoch = history.checks[best]["epoch"] + 1
        return f"{epochs} done, and the encoder of epoch {epoch:,}, of the lowest validation loss, is exported."
    if moment.state == STOPPED:
        return f"Stopped after {place}. The same command goes on with it."
    if moment.state == FAILED:
        return f"Failed after {place}."
    if not history.steps:
        return "The first step is still to come."
    if history.steps == total:
        return "All steps are done; the last validation or the export is under way."
    return place[0].upper() + place[1:]


def _numbers(history: History, about: About, moment: Moment) -> list[tuple[str, str]]:
    """Return the numbers of the first screen, with what they are."""
    found: list[tuple[str, str]] = []
    totals, checks = history.totals, history.checks
    if history.recent:
        mean = sum(history.recent) / len(history.recent)
        found.append((f"{mean:.4g}", f"training loss, mean of the last {len(history.recent)} steps"))
    if checks:
        losses = [line["loss"] for line in checks]
        best = int(np.argmin(losses))
        found.append((f"{losses[-1]:.4g}", f"validation loss after epoch {checks[-1]['epoch'] + 1:,}"))
        found.append((f"{losses[best]:.4g}", f"lowest validation loss, after epoch {checks[best]['epoch'] + 1:,}"))
        scores = [name for name, _ in measures_of(checks[-1]) if name.startswith(("knn", "probe", "rankme"))]
        found += [_last(history, name) for name in scores]
    found += _foreign(history)
    if totals.seconds:
        found.append((f"{totals.images / totals.seconds:,.0f}", "images per second"))
        found.append((f"{100 * totals.waited_s / totals.seconds:.0f} %", "of the time spent waiting for data"))
    if totals.unusable:
        share = totals.unusable / (totals.unusable + totals.images)
        found.append((f"{100 * share:.1f} %", "of the images left out: their region is too small for its masks"))
    return found


def _foreign(history: History) -> list[tuple[str, str]]:
    """Return the last score of the probe on the foreign set, and its highest since training began."""
    trained = [line for line in history.probes if line["epoch"] >= 0]
    if not trained:
        return []
    best = max(trained, key=lambda line: line["macro_f1"])
    title = f"{FOREIGN}; highest {best['macro_f1']:.4g} after epoch {best['epoch'] + 1:,}"
    return [(f"{trained[-1]['macro_f1']:.4g}", title)]


def _last(history: History, name: str) -> tuple[str, str]:
    """Return a measure's last value, and its highest."""
    values = [(value, line["epoch"]) for line in history.checks for key, value in measures_of(line) if key == name]
    highest, epoch = max(values)
    return f"{values[-1][0]:.4g}", f"{title_of(name)}; highest {highest:.4g} after epoch {epoch + 1:,}"


def _sentence(text: str) -> str:
    start = text[:1].upper() if text[1:2].isalpha() or text[1:2] == " " else text[:1]
    return start + text[1:] + ("" if text.endswith(".") else ".")


def duration(seconds: float) -> str:
    """Return a time in the unit that a person would use."""
    for below, one, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < below:
            return f"{seconds / one:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
