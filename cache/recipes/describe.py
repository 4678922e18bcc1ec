"""Print a resolved recipe as YAML, with the meaning and unit of each field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel

from usjepa.cache.recipes.base import section_model

if TYPE_CHECKING:
    from usjepa.cache.recipes.recipe import Recipe


def describe_recipe(recipe: Recipe) -> str:
    """Return a resolved recipe as YAML, each field behind its meaning and unit."""
    return "\n".join(_lines(recipe, 0)) + "\n"


def _lines(settings: BaseModel, depth: int) -> list[str]:
    indent, lines = "  " * depth, []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        section = section_model(field.annotation)
        meaning = field.description or (section.__doc__ if section is not None else "") or ""
        lines += [f"{indent}# {line.strip()}" for line in meaning.strip().splitlines()]
        if isinstance(value, BaseModel):
            lines += [f"{indent}{name}:", *_lines(value, depth + 1)]
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}")
    return lines


def _scalar(value: object) -> str:
    """Return a value as YAML; JSON's spelling of it, except that whole lists stay on the line."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
