"""Hold README and docs to the code: every path, name, command, option, setting and figure that they mention."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from usjepa.cache.cli import main as cache_main
from usjepa.cache.recipes.base import section_model
from usjepa.cache.recipes.recipe import Recipe, load_recipe
from usjepa.evaluate.cli import compare
from usjepa.evaluate.cli import main as evaluate_main
from usjepa.train.cli import main as train_main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, click.Command] = {
    "usjepa-cache": cache_main,
    "usjepa-train": train_main,
    "usjepa-evaluate": evaluate_main,
}
FOLDERS = "cache|train|evaluate|tests|benchmarks|docs|fuzz"
PAGES = sorted({ROOT / "README.md", *ROOT.glob("[A-Z]*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "CHANGELOG.md"})
pages = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language and its lines, continued ones joined."""

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.replace("\\\n", " ").splitlines()


def _blocks(page: Path) -> list[Block]:
    found = re.findall(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", page.read_text(), re.S | re.M)
    return [Block(language, text) for _, language, text in found]


def _spans(page: Path) -> list[str]:
    """Return the text of every code span outside of fenced blocks."""
    prose = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.S | re.M)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def _calls(line: str) -> Iterator[list[str]]:
    """Yield the words of each call of one of our commands in a line of shell."""
    try:
        words = shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:  # an apostrophe in output that a command printed
        return
    starts = [i for i, word in enumerate(words) if word in COMMANDS]
    for start, end in itertools.pairwise([*starts, len(words)]):
        call = words[start:end]
        stop = next((i for i, word in enumerate(call) if word in {"|", "&&", ";", ">", "2>&1", "||", "&"}), len(call))
        yield call[:stop]


def _command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that the words name, and its arguments."""
    command, rest = COMMANDS[words[0]], words[1:]
    if words[:2] == ["usjepa-evaluate", "compare"]:
        return compare, rest[1:]
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{words[0]} has no command {rest[0]}"
        return command.commands[rest[0]], rest[1:]
    return command, rest


def _options(command: click.Command) -> set[str]:
    names = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return names | {"--help", "-h"}


@cache
def _all_options() -> set[str]:
    commands = [*cache_main.commands.values(), train_main, evaluate_main, compare]
    return set().union(*(_options(command) for command in commands))


def test_the_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pages
def test_commands_in_blocks_parse_with_their_options_and_settings(page: Path) -> None:
    for block in _blocks(page):
        if block.language not in {"", "sh", "bash", "console"}:
            continue
        for words in (words for line in block.lines for words in _calls(line)):
            command, arguments = _command(words)
            if "--help" in arguments:
                continue
            try:
                context = command.make_context(" ".join(words[:2]), list(arguments))
            except click.UsageError as error:
                pytest.fail(f"{' '.join(words)}: {error.format_message()}")
            pipeline, own = context.params.get("pipeline"), context.params.get("recipes")
            if context.params.get("overrides") and own is None and "$" not in str(context.params["overrides"]):
                load_recipe(pipeline or "demo", context.params["overrides"])


@pages
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    for span in _spans(page):
        words = span.split()
        if words[0] in COMMANDS:
            command, arguments = _command(words)
            known = _options(command)
        elif span.startswith("--"):
            arguments, known = words, _all_options()
        else:
            continue
        for option in (word.split("=")[0] for word in arguments if re.match(r"--?[a-z]", word)):
            assert option in known, f"`{span}`: no option {option}"


@pages
def test_settings_in_the_text_exist(page: Path) -> None:
    for span in _spans(page):
        found = re.fullmatch(r"((?:cache|train|evaluate)(?:\.[a-z_]+)+)(=[^ ]*)?", span)
        if found is None or found[1].endswith(".json") or _is_name(f"usjepa.{found[1]}"):
            continue
        model: type[BaseModel] | None = Recipe
        for part in found[1].split("."):
            assert model is not None, f"`{span}`: {part} is below a field that is no section"
            assert part in model.model_fields, f"`{span}`: no setting {part} in {model.__name__}"
            model = section_model(model.model_fields[part].annotation)


def _is_name(dotted: str) -> bool:
    """Return whether a dotted name is a module of ours, or something that one has."""
    parts = dotted.split(".")
    for cut in range(len(parts), 1, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            fields = getattr(found, "model_fields", getattr(found, "__dataclass_fields__", {}))
            if attribute in fields:
                return True
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@pages
def test_python_names_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`(usjepa(?:\.\w+)+)`", text) + re.findall(r"^::: (usjepa[\w.]+)$", text, re.M):
        assert _is_name(name), f"{page.name}: no {name}"
    for block in _blocks(page):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("usjepa"):
                    for alias in node.names:
                        assert _is_name(f"{node.module}.{alias.name}"), f"{page.name}: no {node.module}.{alias.name}"


@pages
def test_paths_exist(page: Path) -> None:
    text = page.read_text()
    named = [span for span in _spans(page) if re.match(rf"(?:{FOLDERS}|\.ci|\.github)/[\w.*/:-]+$", span)]
    for path in named:
        file, _, test = path.partition("::")
        assert list(ROOT.glob(file.rstrip("/"))), f"{page.name} names {file}, which is gone"
        assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{page.name}: {file} has no {test}"
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), f"{page.name} links to {link}, which is gone"


@pages
def test_make_targets_and_modules_to_run_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    shell = [line for block in _blocks(page) if block.language in {"", "sh", "console"} for line in block.lines]
    for line in [*_spans(page), *shell]:
        found = re.match(r"(?:\$ )?make ((?:[A-Za-z_]+=\S+ )*)([a-z-]+)", line)
        if found:
            assert found[2] in targets, f"{page.name}: make has no {found[2]}"
        for module in re.findall(r"python -m ((?:benchmarks|tests|fuzz|usjepa)[\w.]*)", line):
            assert importlib.util.find_spec(module) is not None, f"{page.name}: no module {module}"
