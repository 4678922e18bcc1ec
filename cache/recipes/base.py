"""Define what every section of a recipe shares: the base class and the kinds of values.

Loading and overrides live in `recipe.py`, one file holds each section's settings.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[Positive, Positive]
"""(low, high), both included."""

ComputePrecision = Literal["fp32", "bf16", "fp16"]


class Settings(BaseModel):
    """Base of every section: frozen, unknown keys refused, field docstrings kept as descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


def section_model(annotation: Any) -> type[Settings] | None:
    """Return the settings class of a field that is a section, also of an optional one."""
    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((c for c in choices if isinstance(c, type) and issubclass(c, Settings)), None)
