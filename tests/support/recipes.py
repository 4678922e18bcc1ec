"""Walk over the fields of a recipe, and give each another valid value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from usjepa.cache.recipes.base import section_model
from usjepa.cache.recipes.cache import CacheSettings, PreprocessSettings
from usjepa.cache.recipes.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from usjepa.cache.recipes.base import Settings


def leaves(settings: type[Settings], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted path, field) of every field that is no section, in order."""
    for name, field in settings.model_fields.items():
        section = section_model(field.annotation)
        if section is None:
            yield path + name, field
        else:
            yield from leaves(section, f"{path}{name}.")


def another(field: FieldInfo, value: Any) -> Any:
    """Return another value of a field, JSON-able, near enough to be valid."""
    kind = field.annotation
    if get_origin(kind) is Literal:
        return next(one for one in get_args(kind) if one != value)
    if isinstance(value, str) and (choices := [one for one in get_args(kind) if get_origin(one) is Literal]):
        return next(one for one in get_args(choices[0]) if one != value)
    choice = next((one for one in get_args(kind) if get_origin(one) is Literal), None)
    several = next((one for one in get_args(kind) if get_origin(one) is tuple), None)
    if value is None and several is not None:
        return {str: ["x"]}.get(get_args(several)[0], [2])
    if value is None:
        return get_args(choice)[0] if choice else "x" if str in get_args(kind) else 2
    if isinstance(value, dict):
        return {"eps": 1e-3}
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value or 1
    if isinstance(value, float):
        return value / 2 or 0.5
    if value == "auto":
        return "file"
    if isinstance(value, str):
        return "vit_small_patch16_224" if "vit" in value else f"{value}x"
    if not value:
        first = get_args(get_args(kind)[0])[0]
        return [1 if first is int else first]
    if isinstance(value[0], float):
        return [0.9 * value[0], *value[1:]]
    return list(value[:-1])


def small_recipe(**sections: Settings) -> Recipe:
    """Return a recipe that cuts small frames in one process, those that fill their whole screen too."""
    cache = CacheSettings(
        image_size=32, rows_per_shard=16, decode_processes=1, preprocess=PreprocessSettings(whole="keep")
    )
    return Recipe.model_validate({"cache": cache, **sections})
