"""Print a resolved recipe as YAML, with meaning, unit and identity of each field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from usjepa.cache.recipes.base import Settings, section_model
from usjepa.cache.recipes.marks import describe_marks

if TYPE_CHECKING:
    from usjepa.cache.recipes.recipe import Recipe

_LEGEND = """\
# Behind each value stands what it identifies (rows, pixels, latents, training, evaluation), and how:
#   hard       another value is refused, or makes something new
#   soft       changes rounding, or only what is added later; recorded, never refused
#   no effect  changes no number
"""


def describe_recipe(recipe: Recipe) -> str:
    """Return a resolved recipe as YAML; each field has its meaning and unit above it and its marks behind it."""
    return _LEGEND + "\n".join(_lines(recipe, 0)) + "\n"


def _lines(settings: Settings, depth: int) -> list[str]:
    indent, lines = "  " * depth, []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        section = section_model(field.annotation)
        meaning = field.description or (section.__doc__ if section is not None else "") or ""
        lines += [f"{indent}# {line.strip()}" for line in meaning.strip().splitlines()]
        marks = describe_marks(field)
        behind = f"  # {marks}" if marks else ""
        if isinstance(value, Settings):
            lines += [f"{indent}{name}:{behind}", *_lines(value, depth + 1)]
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}{behind}")
    return lines


def _scalar(value: object) -> str:
    """Return a value as YAML; JSON's spelling of it, except that whole lists stay on the line."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
