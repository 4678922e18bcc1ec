"""Define the frozen, typed records that an evaluation's document is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Interval = tuple[float, float]
"""Ends of a 95 % interval."""


class Record(BaseModel):
    """A part of an evaluation's document: it never changes, and a field that it does not have is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Measure(Record):
    """One measure of one predictor."""

    mean: float
    """Over seeds; of a predictor without seeds its one value."""
    sd: float | None = None
    """Sample standard deviation over seeds; None for a predictor without seeds."""
    seeds: tuple[float, ...] = ()
    """The value of each seed; empty for a predictor without seeds."""
    interval: Interval | None = None
    """95 %, over test groups drawn again; None where none were drawn."""
