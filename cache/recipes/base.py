"""Define what the sections of a recipe share: their base class and kinds of values."""

from __future__ import annotations

import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

MISFIT = "misfit"
"""Type of the errors that `misfit` returns."""


def misfit(field: str, value: object, rule: str) -> PydanticCustomError:
    """Return the error of a section's own check: the field (dotted, from the section), its value and the rule."""
    return PydanticCustomError(MISFIT, "{field} {rule}", {"field": field, "value": value, "rule": rule})


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise PydanticCustomError("reversed", "the first number must not be above the second")
    return pair


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=1e9)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Processes = Annotated[int, Field(ge=1, le=1024)]
"""Of the machine, or threads."""
Depth = Annotated[int, Field(ge=1, le=1024)]
"""Transformer blocks."""
Edge = Annotated[int, Field(ge=1, le=4096)]
"""In pixels."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Factor = Annotated[float, Field(ge=1e-6, le=1e3)]
Range = Annotated[tuple[_Factor, _Factor], AfterValidator(_ascending)]
"""(low, high), both included."""
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
"""(low, high), both included, of shares of a whole."""
Mean = tuple[Fraction, Fraction, Fraction]
"""Per channel, of pixels scaled to [0, 1]."""
_Spread = Annotated[float, Field(ge=1e-4, le=1.0)]
Deviation = tuple[_Spread, _Spread, _Spread]
"""Per channel, of pixels scaled to [0, 1]."""

ModelArguments = dict[str, bool | int | float | str | list[int] | None]
"""Arguments of a timm class by name."""

ComputePrecision = Literal["fp32", "bf16", "fp16"]
TeacherPrecision = Literal["fp32", "bf16", "fp16", "bf16-pure", "fp16-pure"]
"""bf16 and fp16 compute with autocast, weights and sums in fp32; the pure ones have weights and all else in half."""


def known_patch(architecture: str, patch_size: int | None) -> int | None:
    """Return the edge of a model's patches in pixels, as set or as its timm name says; None where only timm knows."""
    named = re.search(r"_patch(\d+)", architecture)
    return patch_size or (int(named[1]) if named else None)


class Settings(BaseModel):
    """Base of every section: frozen, unknown keys and numbers without end refused, field docstrings kept."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


def section_model(annotation: Any) -> type[Settings] | None:
    """Return the settings class of a field that is a section, also of an optional one."""
    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((c for c in choices if isinstance(c, type) and issubclass(c, Settings)), None)
