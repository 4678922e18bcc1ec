"""Generate the reference of commands and recipes from click and from the settings, for the site."""

from __future__ import annotations

import html
import inspect
import json
import re
import types
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from usjepa.cache.cli import main as cache_main
from usjepa.cache.recipes.base import Settings, section_model
from usjepa.cache.recipes.marks import describe_marks
from usjepa.cache.recipes.recipe import Recipe, load_recipe, recipe_names
from usjepa.cache.teacher.names.describe import preset_table
from usjepa.evaluate.cli import compare, embed
from usjepa.evaluate.cli import main as evaluate_main
from usjepa.train.cli import main as train_main
from usjepa.train.cli import push

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from pydantic.fields import FieldInfo

COMMANDS = {
    "usjepa-cache": cache_main,
    "usjepa-train": train_main,
    "usjepa-train push": push,
    "usjepa-evaluate": evaluate_main,
    "usjepa-evaluate compare": compare,
    "usjepa-evaluate embed": embed,
}
MARKER = "<!-- generated -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the marker of each generated page by what the code says; the page's own text stays."""
    pages = {
        "reference/commands.md": command_reference,
        "reference/recipes.md": recipe_reference,
        "reference/teachers.md": preset_table,
    }
    for path, reference in pages.items():
        page = files.get_file_from_path(path)
        if page is None or page.content_string.count(MARKER) != 1:
            raise ValueError(f"docs/{path} must contain {MARKER} exactly once")
        text = page.content_string.replace(MARKER, reference())
        files.remove(page)
        files.append(File.generated(config, path, content=text))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a page that loads anything from another host: the site is read offline, too."""
    for page in Path(config.site_dir).rglob("*.html"):
        found = _LOADED.search(page.read_text(encoding="utf-8"))
        if found is not None:
            raise PluginError(f"{page}: loads {found[1]}; put the file into docs/ instead")


_LOADED = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")


def command_reference() -> str:
    """Return Markdown: every command and subcommand with what its `--help` prints."""
    parts: list[str] = []
    for name, command in COMMANDS.items():
        parts += _command(name, command, "##")
        if isinstance(command, click.Group):
            for below in command.list_commands(click.Context(command)):
                parts += _command(f"{name} {below}", command.commands[below], "###")
    return "\n".join(parts) + "\n"


def _command(name: str, command: click.Command, heading: str) -> Iterator[str]:
    """Yield a command's heading, usage, purpose and options."""
    context = click.Context(command, info_name=name)
    yield from (f"{heading} {name}", "")
    yield from ("```text", " ".join([name, *command.collect_usage_pieces(context)]), "```", "")
    yield from (html.escape(inspect.cleandoc(command.help or ""), quote=False), "")
    records = [parameter.get_help_record(context) for parameter in command.params]
    options = [record for record in records if record is not None and record[1]]
    if options:
        yield from ("| option | meaning |", "|---|---|")
    for names, meaning in options:
        yield f"| `{names}` | {_prose(meaning)} |"
    yield ""


def recipe_reference() -> str:
    """Return Markdown: the built-in recipes, then every field of every section, then `pipelines.yaml` itself."""
    parts = ["## Built-in recipes", "", "| recipe | purpose |", "|---|---|"]
    parts += [f"| `{name}` | {load_recipe(name).description} |" for name in recipe_names()]
    parts += [""]
    for key, field in Recipe.model_fields.items():
        section = section_model(field.annotation)
        if section is not None:
            parts += _section(key, section, field)
    source = resources.files("usjepa").joinpath("pipelines.yaml").read_text(encoding="utf-8")
    parts += ["## pipelines.yaml", "", "The recipes as shipped.", "", "```yaml", source.rstrip(), "```"]
    return "\n".join(parts) + "\n"


def _section(path: str, section: type[Settings], field: FieldInfo) -> Iterator[str]:
    """Yield a heading, the section's meaning, its own fields as a table, then the sections below it."""
    marks = describe_marks(field)
    yield from (f"## `{path}`", "", _prose(section.__doc__ or "") + (f" **{marks}**" if marks else ""), "")
    fields = {name: field for name, field in section.model_fields.items() if section_model(field.annotation) is None}
    if fields:
        yield from ("| field | default | meaning; kind; identity |", "|---|---|---|")
    for name, field in fields.items():
        default, marks = json.dumps(field.default, default=list), describe_marks(field)
        meaning = f"{_prose(field.description or '')}<br>*{_kind(field)}*; **{marks}**"
        yield f"| `{name}` | `{default}` | {meaning} |"
    yield ""
    for name, field in section.model_fields.items():
        below = section_model(field.annotation)
        if below is not None:
            yield from _section(f"{path}.{name}", below, field)


def _prose(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


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
