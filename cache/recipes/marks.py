"""Mark what each field of a recipe identifies, and make identities from the marks.

A mark stands in the field's own annotation: `count: Annotated[Count, Hard("pixels")] = 1`. A field counts in the
identities that its marks name and in no other, so no list elsewhere can forget a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from usjepa.cache.recipes.base import Settings

if TYPE_CHECKING:
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


def _marks_of(field: FieldInfo) -> list[Mark]:
    """Return the marks of a field; a section has none, its fields have their own."""
    return [mark for mark in field.metadata if isinstance(mark, Mark)]


def describe_marks(field: FieldInfo) -> str:
    """Return the marks of a field for people, such as "soft: latents; hard: evaluation"; "" for a section."""
    return "; ".join(str(mark) for mark in _marks_of(field))


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
