"""Say where the run's encoder stands: never more than the paired tests show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.evaluate.report.answer.standing import DICE, MACRO_F1, MAE
from usjepa.evaluate.report.text import listed, percent, plain_number
from usjepa.evaluate.scores.bootstrap import FEW_GROUPS, LEAST_GROUPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.evaluate.report.answer.standing import Standing
    from usjepa.evaluate.report.document import Difference

FLOORS = {
    MACRO_F1: "a constant guess of the most common class",
    MAE: "saying the mean of the training values each time",
    DICE: "the same mean mask for every frame",
}
_NAMED = 4
"""Tasks that are named; more are counted."""


def answer(found: Sequence[Standing], noun: str) -> str:
    """Return what came out, in one sentence; of several tasks, on how many the encoder is ahead or behind.

    Args:
        found: the standing on each task.
        noun: what the encoder is called: student or teacher.
    """
    if not found:
        return f"The {noun} was scored on no task."
    if len(found) == 1:
        return on_task(found[0], noun)
    compared = [one for one in found if one.best is not None]
    if not compared:
        return f"The {noun} was scored on {len(found)} tasks, and nothing else beside it."
    ahead, behind, neither = ([one.task for one in compared if one.verdict == sign] for sign in (1, -1, 0))
    many = len(compared)
    if not ahead and not behind:
        return f"On none of {many} tasks is the {noun} shown to differ from the best of the other encoders."
    if not neither and not (ahead and behind):
        side = "ahead of" if ahead else "behind"
        return f"On all {many} tasks the {noun} is {side} the best of the other encoders, and each difference is real."
    clauses = [f"{side} on {_named(some)}" for side, some in (("ahead", ahead), ("behind", behind)) if some]
    rest = f"; on {_named(neither)} no difference is shown to be real" if neither else ""
    return f"Against the best of the other encoders the {noun} is {' and '.join(clauses)}{rest}."


def on_task(one: Standing, noun: str) -> str:
    """Return where the encoder stands on a task: its score, how far from the best of the others, how surely."""
    ours, best = one.ours, one.best
    if one.measure == MAE:
        reached = f"is off by {_value(one, ours.value)} on average"
    else:
        reached = f"reaches {_value(one, ours.value)} {'macro F1' if one.measure == MACRO_F1 else 'Dice'}"
    if ours.interval is not None:
        reached += f" (95 % interval {_bare(one, ours.interval[0])} to {_bare(one, ours.interval[1])})"
    start = f"On {one.task}, the {noun} {reached}"
    if best is None:
        return f"{start}; nothing else was scored beside it."
    others = len(one.rows) - 1
    rival = f"{in_sentence(best.title)}, {'the only other' if others == 1 else f'the best of {others} others'}"
    return f"{start}, {_distance(one, best.value)} {rival}; {_verdict(one)}."


def against_floor(one: Standing) -> str:
    """Return how the score compares with what is reached without looking at any frame."""
    floor, ours = _value(one, one.floor), one.ours
    sign = -1 if one.measure == MAE else 1
    verb = "is off by" if one.measure == MAE else "scores"
    if sign * (ours.value - one.floor) <= 0:
        return f"That is no better than {FLOORS[one.measure]}, which {verb} {floor}."
    told = f"{FLOORS[one.measure][0].upper()}{FLOORS[one.measure][1:]} {verb} {floor}"
    if ours.interval is not None and any(sign * (end - one.floor) <= 0 for end in ours.interval):
        return f"{told}, which lies within the interval: it is not shown that any frame was understood."
    return f"{told}."


def in_sentence(title: str) -> str:
    """Return an encoder's title within a sentence: "its teacher", but "DINOv3"."""
    return title[:1].lower() + title[1:] if title[1:2].islower() or title[1:2] == " " else title


def _distance(one: Standing, best: float) -> str:
    apart = one.ours.value - best
    if _bare(one, one.ours.value) == _bare(one, best):
        return "level with"
    if one.measure == MAE:
        return f"{_value(one, abs(apart))} {'less' if apart < 0 else 'more'} than"
    return f"{100 * abs(apart):.1f} points {'above' if apart > 0 else 'below'}"


def _verdict(one: Standing) -> str:
    """Return whether the difference is real, as a clause."""
    found = one.difference
    groups = one.groups if found is None else found.groups
    people = f"{groups} test {'patient or clip' if groups == 1 else 'patients or clips'}"
    if groups is not None and groups < LEAST_GROUPS:
        return f"with {people}, no difference is called real"
    if found is None:
        return "whether that is more than chance was not tested"
    few = f", though {people} are few" if found.groups < FEW_GROUPS else ""
    how = "is real" if found.real else "is not shown to be real"
    return f"the difference {how}{_ends(one, found)}{few}"


def _ends(one: Standing, found: Difference) -> str:
    """Return the interval of a difference, in brackets."""
    if found.interval is None:
        return ""
    if one.measure == MAE:
        low, high = (f"{end:+.3g}" for end in found.interval)
    else:
        low, high = (f"{100 * end:+.1f}" for end in found.interval)
    return f" (95 % interval {low} to {high})".replace("-", "\N{MINUS SIGN}")


def _value(one: Standing, value: float) -> str:
    unit = one.unit if one.measure == MAE else "%"
    return f"{_bare(one, value)} {unit}".rstrip()


def _bare(one: Standing, value: float) -> str:
    return plain_number(value) if one.measure == MAE else percent(value)


def _named(tasks: Sequence[str]) -> str:
    return listed(tasks) if len(tasks) <= _NAMED else f"{len(tasks)} tasks"
