"""Mark what each field of a recipe identifies, and make identities from the marks.

A mark stands in the field's own annotation: `count: Annotated[Count, Hard("pixels")] = 1`. A field counts in the
identities that its marks name and in no other, so no list elsewhere can forget a new one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from usjepa.cache.recipes.base import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo

    from usjepa.cache.identity import Json

    Included = dict[str, "bool | Included"]

Artifact = Literal["rows", "pixels", "latents", "training", "evaluation"]
"""What a field may identify: the rows that a scan adds to a store (kept in its tables and compared by content), the
layers `pixels` and `regions`, a teacher's layers, the numbers of a training run, the scores of a report."""


class Mark:
    """What a field does to the identities that it names."""

    kind: str

    def __init__(self, *artifacts: Artifact) -> None:
        self.artifacts = artifacts

    def __str__(self) -> str:
        return f"{self.kind}: {', '.join(self.artifacts)}" if self.artifacts else self.kind


class Hard(Mark):
    """Changes numbers: what was made with another value is refused, or made again under another identity."""

    kind = "hard"

    def __init__(self, *artifacts: Artifact, when_set: bool = False) -> None:
        """Mark a field; one that came later counts `when_set`, so that identities made before it stay as they are."""
        super().__init__(*artifacts)
        self.when_set = when_set


class Soft(Mark):
    """Changes rounding, or only what is added later: the value used is recorded and another one is never refused."""

    kind = "soft"


class NoEffect(Mark):
    """Changes no number that is stored or reported."""

    kind = "no effect"

    def __init__(self) -> None:
        super().__init__()


class OnlyWith:
    """Beside a mark: the field, or all of a section, counts only where a field beside it has one of some values."""

    def __init__(self, field: str, *values: str) -> None:
        """Name the other field; without values, any will do but null, false and what is empty."""
        self.field, self.values = field, values

    def holds(self, settings: Settings) -> bool:
        """Return whether the field of these settings counts."""
        value = getattr(settings, self.field)
        return value in self.values if self.values else bool(value)

    def __str__(self) -> str:
        return f"only with {self.field}" + (f": {' or '.join(self.values)}" if self.values else "")


def idle(settings: Settings, path: Sequence[str]) -> str | None:
    """Return why a field at a path below settings has no effect; the path must exist.

    None where it counts, and where it has its default, which another setting may have asked for.
    """
    why, value, default = None, settings, None
    for depth, name in enumerate(path):
        if not isinstance(value, Settings):
            break
        field = type(value).model_fields[name]
        for only in conditions_of(field):
            if why is None and not only.holds(value):
                other = ".".join([*path[:depth], only.field])
                why = f"it counts {only}, and {other} is {json.dumps(getattr(value, only.field))}"
        value, default = getattr(value, name), field.default
    return None if value == default else why


def conditions_of(field: FieldInfo) -> list[OnlyWith]:
    """Return where alone a field counts."""
    return [item for item in field.metadata if isinstance(item, OnlyWith)]


def _marks_of(field: FieldInfo) -> list[Mark]:
    """Return the marks of a field; a section has none, its fields have their own."""
    return [mark for mark in field.metadata if isinstance(mark, Mark)]


def describe_marks(field: FieldInfo) -> str:
    """Return a field's marks for people, such as "soft: latents; hard: evaluation"; a section has conditions alone."""
    return "; ".join(map(str, [*_marks_of(field), *conditions_of(field)]))


def hard_values(settings: Settings, artifact: Artifact) -> dict[str, Json]:
    """Return the fields that are hard for an identity, JSON-able; sections nest, those without any are left out."""
    values: dict[str, Json] = settings.model_dump(mode="json", include=_hard_fields(settings, artifact))
    return values


def _hard_fields(settings: Settings, artifact: Artifact) -> Included:
    found: Included = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        marks = [mark for mark in _marks_of(field) if isinstance(mark, Hard) and artifact in mark.artifacts]
        hard = any(not mark.when_set or value != field.default for mark in marks)
        if below := _hard_fields(value, artifact) if isinstance(value, Settings) else hard:
            found[name] = below
    return found
