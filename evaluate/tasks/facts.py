"""What must be known of a task before its scores are believed: leakage and label hygiene, found by looking at it.

Depends on the task alone, not on any encoder. Reads every frame once: 10,000 frames take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.evaluate.tasks.hygiene import Hygiene, hygiene_of
from usjepa.evaluate.tasks.leakage import Leakage, contents_of, leakage_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from usjepa.cache.identity import Json
    from usjepa.evaluate.tasks.task import Task


@dataclass(frozen=True)
class Facts:
    """What was found out about a task."""

    hygiene: Hygiene
    leakage: Leakage
    notes: tuple[str, ...]
    """The task's own notes: how it was made."""

    def sentences(self) -> list[str]:
        """Return everything that a reader of the scores must know, leaks first."""
        return [*self.leakage.sentences(), *self.notes, *self.hygiene.sentences()]

    def told(self) -> dict[str, Json]:
        """Return what goes into `scores.json`, beside the sentences."""
        return {"leakage": self.leakage.told(), "hygiene": self.hygiene.told()}


def facts_of(task: Task, check: Callable[[], None] = lambda: None) -> Facts:
    """Find out what must be known of a task.

    Args:
        task: the task.
        check: called between pieces of work; may raise to stop.

    Raises:
        DamageError: the task's store is damaged.
    """
    contents = contents_of(task, check)
    return Facts(hygiene_of(task, contents, check), leakage_of(task, contents, check), task.notes)
