"""The command `usjepa-evaluate`. Heavy modules are imported in the command's body, so that `--help` answers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from usjepa.cache.command_line import ends_well, recipe_options

if TYPE_CHECKING:
    from usjepa.cache.settings import Recipe


_HELP = {"help_option_names": ["-h", "--help"]}
_DEFAULT = "score"


class _Commands(click.Group):
    """A group whose first argument may be left out: `usjepa-evaluate RUN ...` is `usjepa-evaluate score RUN ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front of arguments that name none."""
        named = bool(args) and (args[0] in self.commands or args[0] in _HELP["help_option_names"])
        return super().parse_args(ctx, args if named else [_DEFAULT, *args])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the default command's options, then the commands."""
        self.commands[_DEFAULT].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_Commands, context_settings=_HELP, subcommand_metavar="RUN --task TASK... | compare A.json B.json")
def main() -> None:
    """Score the encoder of RUN beside its teacher and plain baselines, and write a report.

    Linear probes and k-NN on frozen features, patients kept apart; OUT/index.html is one page to read and to send on,
    OUT/scores.json has every number. Without --pipeline, the run's own recipe holds. `compare` says which differences
    between two reports are real.
    """


@main.command(_DEFAULT, context_settings=_HELP)
@click.argument("run", type=click.Path())
@click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="[LAYOUT=]PATH[::DATASET]",
    help="Labelled frames to score on: a store, UltraBench, BUS-BRA or TN5000 as published, a folder per class, or a "
    "manifest CSV. Repeatable.",
)
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="RUN|FILE[@ARCHITECTURE]|NAME",
    help="Score this encoder too: another run, a checkpoint, or a timm model (NAME: random weights; NAME.TAG: "
    "pretrained). Repeatable.",
)
@click.option("-o", "--out", default="report", show_default=True, type=click.Path(), help="Folder of the report.")
@recipe_options
@click.option("--device", default=None, help="Torch device of the encoders, e.g. cuda:0; default: a GPU if any.")
@ends_well
def score(
    run: str,
    tasks: tuple[str, ...],
    encoders: tuple[str, ...],
    out: str,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
    device: str | None,
) -> None:
    """Score the encoder of RUN and write a report: what is meant where no command is named."""
    from pathlib import Path

    from usjepa.evaluate.run import evaluate
    from usjepa.evaluate.runs import open_run

    open_run(Path(run))  # a run that is not finished is the first thing to hear of, before its recipe
    document = evaluate(run, tasks, out, _recipe(run, pipeline, recipes, overrides), device, encoders)
    click.echo(table(document))
    click.echo(f"\nreport: {out.rstrip('/')}/index.html    every number: {out.rstrip('/')}/scores.json")


@main.command(context_settings=_HELP)
@click.argument("one", metavar="A", type=click.Path())
@click.argument("other", metavar="B", type=click.Path())
@click.option(
    "--encoders",
    nargs=2,
    metavar="KEY KEY",
    help="Compare this encoder of A with that one of B, e.g. student teacher; default: each with its namesake.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@ends_well
def compare(one: str, other: str, encoders: tuple[str, str] | None, as_json: bool) -> None:
    """Say which differences between two reports (scores.json, or their folders) are real.

    Macro F1 of the linear probes, on the same test frames, resampled by patient, corrected for their number.
    """
    import json
    from dataclasses import asdict
    from pathlib import Path

    from usjepa.evaluate import compare as comparing

    documents = comparing.read_scores(Path(one)), comparing.read_scores(Path(other))
    found = comparing.compare(*documents, encoders or None)
    click.echo(json.dumps(asdict(found), indent=1) if as_json else comparing.told(found, *documents))


def _recipe(run: str, pipeline: str | None, recipes: str | None, overrides: tuple[str, ...]) -> Recipe:
    """Return the named recipe, or the run's own with the overrides on it."""
    from pathlib import Path

    from usjepa.cache.errors import UsageError
    from usjepa.cache.recipe import load_recipe, override_recipe
    from usjepa.evaluate.runs import run_recipe

    if pipeline is not None:
        return load_recipe(pipeline, overrides, recipes)
    if recipes is not None:
        raise UsageError("--recipes says where recipes are; say which one with --pipeline NAME.")
    return override_recipe(run_recipe(Path(run)), overrides)


def table(document: Any) -> str:
    """Return the scores as lines of text: encoders down, tasks across, macro F1 in percent."""
    from usjepa.evaluate.report import percent

    names = [task["name"] for task in document["tasks"]]
    lines = [["macro F1, %", *[cell for name in names for cell in (name, "k-NN")]]]
    for key, encoder in document["encoders"].items():
        line = [encoder["title"]]
        for name in names:
            found = [s for s in document["scores"] if s["task"] == name and s["encoder"] == key]
            f1 = found[0]["probe"]["macro_f1"] if found else None
            line += (
                [f"{percent(f1['mean'])} ± {percent(f1['sd'])}", percent(found[0]["knn"]["macro_f1"])]
                if f1
                else ["-", "-"]
            )
        lines.append(line)
    floor = [cell for task in document["tasks"] for cell in (percent(task["floor"]["macro_f1"]), "")]
    lines.append(["Always the commonest class", *floor])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    told = [
        [line[0].ljust(widths[0]), *[c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]] for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in told)
