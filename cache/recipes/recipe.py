"""Load recipes from `pipelines.yaml` and `--set section.key=value`, naming every mistake.

A recipe is one document with a section for each stage. All sections are defined in this lowest package, so that every
stage reads the whole document and every command checks an override in the same way.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import importlib.resources
import itertools
import json
import logging
import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from usjepa.cache.errors import RecipeError
from usjepa.cache.recipes.base import MISFIT, Settings, section_model
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.cache.recipes.marks import NoEffect, idle
from usjepa.cache.recipes.train import TrainSettings
from usjepa.cache.terminal.refusals import advice

logger = logging.getLogger(__name__)

_EXTENDS = "extends"
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 80
"""How a wrong value is shown."""
_MOST_NBYTES = 1 << 20
"""Of a file of recipes; the built-in one has 10 kB."""
_MOST_VALUES, _MOST_STEPS = 100_000, 100
"""Values in a file, its aliases written out, and recipes that extend one another."""


class Recipe(Settings):
    """One entry of `pipelines.yaml`."""

    description: Annotated[str, NoEffect()] = ""
    """One line on what the recipe is for."""
    cache: CacheSettings = CacheSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()


def load_recipe(name: str, overrides: Sequence[str] = (), file: str | None = None) -> Recipe:
    """Return a recipe by name.

    Args:
        name: of an entry in the recipe file.
        overrides: `section.key=value` strings; values are YAML (`1e-4` is a number).
        file: recipe file to use in place of `pipelines.yaml`.

    Raises:
        RecipeError: an unknown name or key, a repeated key, a value that can't be used, or a file that can't be read.
    """
    where = file or "pipelines.yaml"
    merged = _resolve(name, _entries(file), where, ())
    for override in overrides:
        _apply(merged, override)
    return _marked(_validated(merged, f"{where}: recipe {name}"), overrides)


def override_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a recipe with `section.key=value` overrides applied; raises RecipeError as `load_recipe` does."""
    values = recipe.model_dump()
    for override in overrides:
        _apply(values, override)
    return _marked(_validated(values, "recipe of the run"), overrides)


def _marked(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return the recipe whose teacher knows which of its fields were overridden: a preset leaves these alone.

    An override that has no effect with the others is told.
    """
    teacher = recipe.cache.teacher
    paths = [[part.strip() for part in override.partition("=")[0].split(".")] for override in overrides]
    for path in paths:
        if why := idle(recipe, path):
            logger.warning(f"--set {'.'.join(path)} has no effect: {why}.")
    stated = frozenset(path[2] for path in paths if path[:2] == ["cache", "teacher"] and len(path) > 2)
    if teacher is None or not stated:
        return recipe
    cache = recipe.cache.model_copy(update={"teacher": teacher.with_stated(stated)})
    return recipe.model_copy(update={"cache": cache})


def recipe_names(file: str | None = None) -> list[str]:
    """Return the names of the recipes in a file (none: `pipelines.yaml`), in its order."""
    return list(_entries(file))


def _entries(file: str | None) -> dict[str, Any]:
    if file is None:
        return _built_in()
    try:
        with open(file, "rb") as opened:  # not as a whole: a device has no end
            data = opened.read(_MOST_NBYTES + 1)
    except OSError as error:
        raise RecipeError(f"{file}: the recipe file can't be read ({error.strerror}). {advice(error)}") from error
    if len(data) > _MOST_NBYTES:
        raise RecipeError(f"{file}: more than {_MOST_NBYTES:,} bytes, so no file of recipes.")
    try:
        return _parse(data.decode(), file)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: the recipe file can't be read: it is not UTF-8 ({error.reason}).") from error


@functools.cache
def _built_in() -> dict[str, Any]:
    """Return the recipes that are installed; whoever merges them leaves them as they are."""
    text = importlib.resources.files("usjepa").joinpath("pipelines.yaml").read_text(encoding="utf-8")
    return _parse(text, "pipelines.yaml")


def _parse(text: str, where: str) -> dict[str, Any]:
    """Parse YAML 1.2 without tags or objects; a repeated key is an error."""
    try:
        if "*" in text:  # without an alias nothing is larger than it is written
            _unfolded(YAML(typ="safe", pure=True).compose(text), where, {})
        value = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise RecipeError(f"{where}{line}: {error.problem}") from error
    except (YAMLError, ValueError) as error:
        raise RecipeError(f"{where}: not readable as YAML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{where}: not readable as YAML: it is nested too deep.") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: contains no recipes. An entry is `name:` with sections cache, train and evaluate.")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise RecipeError(f"{where}: a recipe is called by text, not {_BRIEF.repr(odd[0])}. Put it into quotes.")
    return value


def _unfolded(node: Node | None, where: str, known: dict[int, int]) -> int:
    """Return how many values a part of a document stands for, its aliases written out; RecipeError above a limit."""
    if not isinstance(node, (MappingNode, SequenceNode)):
        return 1
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES  # met again below itself: it has no end
        parts = itertools.chain.from_iterable(node.value) if isinstance(node, MappingNode) else node.value
        known[id(node)] = 1 + sum(_unfolded(part, where, known) for part in parts)
        if known[id(node)] > _MOST_VALUES:
            raise RecipeError(
                f"{where}: its aliases stand for more than {_MOST_VALUES:,} values, so no file of recipes."
            )
    return known[id(node)]


def _resolve(name: str, entries: Mapping[str, Any], where: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """Return an entry merged over the entry that it extends."""
    if len(seen) > _MOST_STEPS:
        raise RecipeError(f"{where}: recipes extend each other over more than {_MOST_STEPS} steps.")
    if name in seen:
        raise RecipeError(f"{where}: recipes extend each other in a circle: {' -> '.join((*seen, name))}.")
    if name not in entries:
        raise RecipeError(f"{where}: no recipe {name!r}{_nearest(name, entries)} There are: {', '.join(entries)}.")
    entry = entries[name]
    if not isinstance(entry, dict):
        raise RecipeError(f"{where}: recipe {name} must have sections, not {entry!r}.")
    own = {key: value for key, value in entry.items() if key != _EXTENDS}
    if _EXTENDS not in entry:
        return _merged({}, own)
    return _merged(_resolve(str(entry[_EXTENDS]), entries, where, (*seen, name)), own)


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        nested = isinstance(value, Mapping)
        result[key] = _merged(below if isinstance(below, dict) else {}, value) if nested else value
    return result


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place."""
    key, equals, text = override.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise RecipeError(f"--set {override!r}: write it as section.key=value, e.g. --set train.lr=1e-4")
    value = _parse(f"value: {text}" if text.strip() else "value:", f"--set {key}").get("value")
    for section in path[:-1]:
        below = values.get(section)
        if not isinstance(below, dict):
            below = values[section] = {}
        values = below
    values[path[-1]] = value


def _validated(values: dict[str, Any], where: str) -> Recipe:
    """Check kinds strictly, as of JSON: an integer may serve as a float and a list as a tuple, but `true` is no number.

    A YAML date is taken as text, the only kind of field that could mean one.
    """
    try:
        return Recipe.model_validate_json(json.dumps(values, default=_date), strict=True)
    except ValidationError as error:
        raise RecipeError("\n".join(_message(item, where) for item in error.errors())) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: it has a value that no field can have ({error}).") from error


def _date(value: object) -> str:
    """Return a YAML date as text; TypeError for sets, bytes and other kinds that JSON does not have."""
    if isinstance(value, datetime.date):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def _message(item: Any, where: str) -> str:
    """Return one validation error as a line: field, value, what is expected, the nearest valid name."""
    path = [str(part) for part in item["loc"]]
    if item["type"] == MISFIT:
        found = item["ctx"]
        return f"{where}: {'.'.join([*path, found['field']])} = {found['value']!r}: {found['rule']}"
    field = ".".join(path)
    if item["type"] == "extra_forbidden":
        valid = _fields_at(path[:-1])
        return f"{where}: unknown key {field}{_nearest(path[-1], valid)} Valid here: {', '.join(valid)}."
    return f"{where}: {field or 'the recipe'} = {_BRIEF.repr(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _fields_at(path: Sequence[str]) -> list[str]:
    model: type[Settings] | None = Recipe
    for part in path:
        if model is None or part not in model.model_fields:
            return []
        model = section_model(model.model_fields[part].annotation)
    return list(model.model_fields) if model is not None else []


def _nearest(name: str, valid: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
