"""Define a tracker, and name the numbers of a line of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Line = Mapping[str, Any]
    """A line of the log: `kind`, `step`, numbers by name; `losses` has those of several targets by name."""

_NO_NUMBERS = ("kind", "step", "epoch", "batch", "best", "sum")


class Tracker(Protocol):
    """Shows a run's numbers somewhere else. The log has them all: a tracker may miss some."""

    def write(self, lines: Sequence[Line]) -> None:
        """Take lines in the order of the log; after a resume, steps may come again, with the same numbers."""
        ...

    def close(self) -> None:
        """Take no more."""
        ...


def numbers_of(line: Line) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line as (`train/loss`, value); what has no value is left out."""
    group = "train" if line["kind"] == "step" else str(line["kind"])
    for name, value in line.items():
        if name in _NO_NUMBERS or value is None:
            continue
        if isinstance(value, dict):
            yield from ((f"{group}/{name}/{target}", float(each)) for target, each in value.items())
        elif isinstance(value, int | float):
            yield f"{group}/{name}", float(value)
