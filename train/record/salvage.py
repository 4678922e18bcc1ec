"""Write again what can be saved of a log that was cut, lost or changed."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from usjepa.train.record.lines import from_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from usjepa.train.record.history import History
    from usjepa.train.record.lines import EndLine, Line

logger = logging.getLogger(__name__)

_LONGEST = 1 << 16
"""Bytes of a line above which it is damage: zeros in place of its end, say."""
_NAMED = 8
"""Most gaps that the report lists."""


@dataclass(frozen=True)
class Covered:
    """The part of a run that a checkpoint covers."""

    step: int
    """Steps done."""
    validated: int
    """Epochs whose validation is done."""
    history: History | None = None
    """None in a checkpoint of a version that kept none."""
    steps_per_epoch: int = 0
    """0: not known; a gap then ends where a validation stands, and else has the epoch of the line before."""


@dataclass
class Salvaged:
    """The outcome of a salvage."""

    gaps: list[tuple[int, int]] = field(default_factory=list)
    """First step and number of steps whose lines are lost."""
    validations: int = 0
    """Lines of validations and probes that the log lacked, written again from the history."""
    damaged: int = 0
    """Lines that are not as they were written."""
    unproved: int = 0
    """Lines of a version that wrote no sums."""

    def report(self, path: Path, marked: bool) -> None:
        """Say what was found.

        Args:
            path: of the log.
            marked: whether a checkpoint says what the log should hold.
        """
        if not marked and self.unproved:
            logger.info(
                f"{path}: lines of an earlier version, without sums: {self.unproved:,}; they have one from now on."
            )
        lost = sum(steps for _, steps in self.gaps)
        if not (marked or lost or self.damaged):
            return
        parts = [f"lines that were damaged: {self.damaged:,}"] if self.damaged else []
        if self.validations:
            parts.append(f"lines of validations and probes written again: {self.validations:,}")
        if lost:
            named = ", ".join(f"{first} to {first + steps - 1}" for first, steps in self.gaps[:_NAMED])
            more = f" and {len(self.gaps) - _NAMED} more gaps" if len(self.gaps) > _NAMED else ""
            parts.append(f"steps whose lines are lost: {lost:,} ({named}{more}); a line of kind `lost` stands for them")
        told = "; ".join(parts) or "every line could be saved"
        logger.warning(
            f"{path}: was cut, removed or changed since the last checkpoint: {told}. Weights and checkpoints are not "
            "touched by this."
        )


def salvage(source: BinaryIO, covered: Covered, take: Callable[[Line], None]) -> Salvaged:
    """Pass to `take` the lines that a checkpoint covers, in their order, and a `lost` line for every gap, one an epoch.

    Args:
        source: the damaged log.
        covered: by the checkpoint. With a history, the validation lines are taken from there.
        take: writes a line.
    """
    merging = _Merging(covered, take)
    for line in _whole_lines(source, merging.found):
        merging.add(line)
    merging.fill(covered.step)
    return merging.found


class _Merging:
    """Puts steps, validations and gaps into their order."""

    def __init__(self, covered: Covered, take: Callable[[Line], None]) -> None:
        self.found = Salvaged()
        self._covered, self._take = covered, take
        self._checks: deque[EndLine] = deque(covered.history.ends() if covered.history else ())
        self._seen: set[tuple[str, int]] = set()
        self._at = 0
        self._epoch = 0

    def add(self, line: Line) -> None:
        """Take a whole line of the damaged log, unless it is one too many or lies behind the checkpoint."""
        if line["kind"] == "step" and self._at <= line["step"] < self._covered.step:
            self.fill(line["step"])
            self._take(line)
            self._at, self._epoch = line["step"] + 1, line["epoch"]
        elif line["kind"] in ("validation", "probe") and self._covered.history is not None:
            self._seen.add((line["kind"], line["epoch"]))
        elif line["kind"] == "validation" and self._epoch <= line["epoch"] < self._covered.validated:
            self.fill(line["step"])
            self._take(line)
            self._epoch = line["epoch"] + 1

    def fill(self, step: int) -> None:
        """Stand for every step before this one that is missing, and take the validations that are due."""
        self._due()
        while self._at < step:
            end = min(step, self._checks[0]["step"]) if self._checks else step
            epoch = self._checks[0]["epoch"] if self._checks else self._epoch
            if self._covered.steps_per_epoch:
                epoch = self._at // self._covered.steps_per_epoch
                end = min(end, (epoch + 1) * self._covered.steps_per_epoch)
            self._take({"kind": "lost", "step": self._at, "steps": end - self._at, "epoch": epoch})
            self.found.gaps.append((self._at, end - self._at))
            self._at = end
            self._due()

    def _due(self) -> None:
        while self._checks and self._checks[0]["step"] <= self._at:
            check = self._checks.popleft()
            self.found.validations += (check["kind"], check["epoch"]) not in self._seen
            self._take(check)
            self._epoch = check["epoch"] + 1


def _whole_lines(source: BinaryIO, found: Salvaged) -> Iterator[Line]:
    """Yield the lines that are as they were written; count the others."""
    source.seek(0)
    while text := source.readline(_LONGEST):
        try:
            line, proved = from_text(text)
        except ValueError:
            found.damaged += 1
            while text and not text.endswith(b"\n"):
                text = source.readline(_LONGEST)
            continue
        found.unproved += not proved
        yield line
