"""Hold README and docs to the code: every path, name, command, option, setting and figure that they mention."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from tests.support.processes.browser import look
from tests.support.transcripts import not_printed, run, steps_of
from usjepa.cache.cli import main as cache_main
from usjepa.cache.command_line import CommandBeside
from usjepa.cache.recipes.base import section_model
from usjepa.cache.recipes.recipe import Recipe, load_recipe
from usjepa.evaluate.cli import main as evaluate_main
from usjepa.train.cli import main as train_main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    if isinstance(command, CommandBeside) and rest and rest[0] in command.others:
        return command.others[rest[0]], rest[1:]
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{words[0]} has no command {rest[0]}"
        return command.commands[rest[0]], rest[1:]
    return command, rest


def _options(command: click.Command) -> set[str]:
    names = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return names | {"--help", "-h"}


@cache
def _all_options() -> set[str]:
    commands = [
        *cache_main.commands.values(),
        *(c for m in (train_main, evaluate_main) for c in (m, *m.others.values())),
    ]
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
        file, _, name = path.partition("::")
        assert list(ROOT.glob(file.rstrip("/"))), f"{page.name} names {file}, which is gone"
        assert not name or re.search(rf"^(?:def|class) {name}\b", (ROOT / file).read_text(), re.M), (
            f"{page.name}: {file} has no {name}"
        )
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


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return found


def _scores(name: str, row: str, task: str) -> str:
    """Return macro F1 of the probe over training seeds or folds, in percent: mean ± sample deviation, or the one."""
    values = [one[task]["probe"] for one in _result(name)["macro_f1"][row]]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _ratio(name: str, *words: str) -> float:
    """Return the median of the one ratio whose name has all the words."""
    (found,) = [one for key, one in _result(name)["ratios_min_median_max"].items() if all(w in key for w in words)]
    median: float = found["ratio"][1]
    return median


def _learned() -> list[str]:
    rows = {"student": "student", "its teacher": "pixel teacher", "random weights": "random weights"}
    others = [_scores(f"learning-phantom-{seed}", row, "phantom") for seed in (6, 7) for row in rows.values()]
    return [f"{title} {_scores('learning-phantom', row, 'phantom')}" for title, row in rows.items()] + others


def _learned_from_real_frames() -> list[str]:
    rows = {
        "students": "student, 2 x 2 means",
        "its teacher": "contrastive teacher, 2 x 2 means",
        "HOG": "HOG",
        "raw pixels": "32x32 pixels",
        "random weights": "random weights, 2 x 2 means",
    }
    return [f"{title} {_scores('learning-source-patients-contrast', row, 'camus')}" for title, row in rows.items()] + [
        _scores("learning-source-small-contrast", "contrastive teacher, 2 x 2 means", "camus")
    ]


def _read() -> list[str]:
    peers = ("checked, fresh memory / TensorStore", "checked, fresh memory / zarr-python")
    return [f"{_ratio('read', peer):.1f}x" for peer in peers]


def _noticed() -> list[str]:
    flipped = _result("faults")["found"]["one bit flipped"]
    (zarr,) = [flipped[peer] for peer in flipped if peer.startswith("zarr") and "sharded" not in peer]
    return [f"of {sum(flipped['usjepa'].values())}", f"{flipped['usjepa']['raised']}; {zarr['raised']}"]


FIGURES: dict[str, Callable[[], list[str]]] = {
    "Does it learn?": _learned,
    "On few real frames?": _learned_from_real_frames,
    "Random checked reads": _read,
    "A training step": lambda: [f"{1 / _ratio('step', 'targets in memory / cached'):.2f}x"],
    "A build with": lambda: [f"{_ratio('build', 'from stored pixels / bare teacher'):.2f}x"],
    "Flipped bits": _noticed,
}


@pytest.mark.parametrize("question", FIGURES)
def test_the_figures_in_the_readme_are_those_of_the_results(question: str) -> None:
    (line,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| {question}")]
    for figure in FIGURES[question]():
        assert figure in line, f"benchmarks/results says {figure}"


def test_the_readme_quotes_six_figures_and_each_is_checked() -> None:
    section = (ROOT / "README.md").read_text().split("## Six figures")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(FIGURES) == 6


def test_the_python_of_the_readme_runs(phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lung.zarr").symlink_to(phantom_store)
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in _blocks(ROOT / "README.md") if block.language == "python"]
    names: dict[str, Any] = {}
    exec(block.text, names)
    assert names["targets"].shape == names["batch"].latents.shape


TRANSCRIPTS = [
    "how-to/grow",
    "how-to/move-a-store",
    "how-to/several-stores",
    "how-to/a-patient-withdraws",
    "how-to/convert-and-export",
    "how-to/repair",
    "how-to/slurm",
    "tutorials/your-teacher",
]


def test_a_changed_message_or_a_missing_line_is_noticed_in_a_transcript(tmp_path: Path) -> None:
    page = "```console\n$ echo 3 rows in 0.1 s; false  # exit code 1\n4 rows in 2,000 s\n...\nsealed\n```\n"
    (step,) = steps_of(page)
    assert not_printed(step, run(step, tmp_path)) == ["sealed"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", TRANSCRIPTS)
def test_what_a_guide_shows_is_what_its_commands_print(page: str, tmp_path: Path) -> None:
    steps = steps_of((ROOT / "docs" / f"{page}.md").read_text())
    assert steps
    for step in steps:
        printed = run(step, tmp_path)
        missing = not_printed(step, printed)
        assert not missing, f"{step.command}\nno longer prints {missing}, but\n" + "\n".join(printed)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the documentation as `make docs` does, elsewhere."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return folder


_WIDTH = "document.documentElement.scrollWidth"
_HITS = (
    "document.querySelector('[data-md-toggle=search]').click(),"
    "document.querySelector('.md-search__input').value = 'generation',"
    "document.querySelector('.md-search__input').dispatchEvent(new Event('keyup')),"
    "new Promise(done => setTimeout(() => done(document.querySelectorAll('.md-search-result__item').length), 5000))"
)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", ["index", "results", "reference/commands", "tutorials/your-frames"])
def test_a_page_opened_from_a_disk_fits_its_screen_and_asks_no_host(site: Path, page: str, width: int) -> None:
    seen = look(site / f"{page}.html", [_WIDTH], width)
    assert seen.answers == [width]
    assert not seen.trouble
    assert all(address.startswith(("file:", "data:")) for address in seen.requested)


@pytest.mark.slow
def test_the_search_answers_where_the_site_is_opened_from_a_disk(site: Path) -> None:
    (hits,) = look(site / "index.html", [_HITS]).answers
    assert hits > 3
