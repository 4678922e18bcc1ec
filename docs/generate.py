"""Generate the recipe reference from the settings' own types, defaults and docstrings, for the site."""

from __future__ import annotations

import html
import json
import types
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from mkdocs.structure.files import File
from pydantic import BaseModel

from usjepa.cache.recipes.marks import describe_marks
from usjepa.cache.recipes.recipe import Recipe, load_recipe, recipe_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from pydantic.fields import FieldInfo

PAGE = "reference/recipes.md"
MARKER = "<!-- generated -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the marker of the recipe page by what the code says; the page's own text stays."""
    page = files.get_file_from_path(PAGE)
    if page is None or page.content_string.count(MARKER) != 1:
        raise ValueError(f"docs/{PAGE} must contain {MARKER} exactly once")
    text = page.content_string.replace(MARKER, recipe_reference())
    files.remove(page)
    files.append(File.generated(config, PAGE, content=text))
    return files


def recipe_reference() -> str:
    """Return Markdown: the built-in recipes, then every field of every section, then `pipelines.yaml` itself."""
    parts = ["## Built-in recipes", "", "| recipe | purpose |", "|---|---|"]
    parts += [f"| `{name}` | {load_recipe(name).description} |" for name in recipe_names()]
    parts += [""]
    for key, field in Recipe.model_fields.items():
        section = _section_of(field)
        if section is not None:
            parts += _section(key, section)
    source = resources.files("usjepa").joinpath("pipelines.yaml").read_text(encoding="utf-8")
    parts += ["## pipelines.yaml", "", "The recipes as shipped.", "", "```yaml", source.rstrip(), "```"]
    return "\n".join(parts) + "\n"


def _section(path: str, section: type[BaseModel]) -> Iterator[str]:
    """Yield a heading, the section's meaning, its own fields as a table, then the sections below it."""
    yield from (f"## `{path}`", "", _prose(section.__doc__ or ""), "")
    fields = {name: field for name, field in section.model_fields.items() if _section_of(field) is None}
    if fields:
        yield from ("| field | default | kind | identity | meaning |", "|---|---|---|---|---|")
    for name, field in fields.items():
        default, marks = html.escape(json.dumps(field.default, default=list)), describe_marks(field)
        yield f"| `{name}` | `{default}` | {_kind(field)} | {marks} | {_prose(field.description or '')} |"
    yield ""
    for name, field in section.model_fields.items():
        below = _section_of(field)
        if below is not None:
            yield from _section(f"{path}.{name}", below)


def _prose(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the settings class behind a field that is a section, optional or not."""
    return next((kind for kind in _choices(field.annotation) if _is_model(kind)), None)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _kind(field: FieldInfo) -> str:
    """Return a field's type and limits in words, e.g. `integer >= 1` or `one of fp32, fp16, int8`."""
    limits = [f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in _LIMITS if hasattr(m, name)]
    words = [_word(kind) for kind in _choices(field.annotation)]
    return html.escape(" or ".join(words) + (f" {', '.join(limits)}" if limits else ""), quote=False)


_LIMITS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("multiple_of", "multiple of"))
_WORDS = {int: "integer", float: "number", bool: "true or false", str: "text", type(None): "none"}


def _word(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in args)
    if origin is tuple:
        many = args[-1] is Ellipsis
        return f"list of {_word(args[0])}" if many else f"{len(args)} x {_word(args[0])}"
    if hasattr(kind, "__metadata__"):
        return _word(kind.__origin__)
    return _WORDS.get(kind, str(kind))
