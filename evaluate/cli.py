"""The command `usjepa-evaluate`. Heavy modules are imported in the command's body, so that `--help` answers at once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from usjepa.cache.command_line import ends_well, recipe_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.recipes.recipe import Recipe


_HELP = {"help_option_names": ["-h", "--help"]}


class _WithCompare(click.Command):
    """A command whose first word may be `compare`; a run of that name is `./compare`."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run the command that the arguments name."""
        words = list(sys.argv[1:] if args is None else args)
        if words[:1] == ["compare"]:
            extra["prog_name"] = "usjepa-evaluate compare"
            return compare.main(words[1:], *rest[1:], **extra)
        return super().main(words, *rest, **extra)


@click.command(cls=_WithCompare, context_settings=_HELP)
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
    "--segment",
    "segmentations",
    multiple=True,
    metavar="[LAYOUT=]PATH[::NAME]",
    help="Frames with masks to segment with a linear head on patch tokens: UltraBench or BUS-BRA as published. "
    "Repeatable.",
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
def main(
    run: str,
    tasks: tuple[str, ...],
    segmentations: tuple[str, ...],
    encoders: tuple[str, ...],
    out: str,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
    device: str | None,
) -> None:
    """Score the encoder of RUN beside its teacher and plain baselines, and write a report.

    Linear probes and k-NN on frozen features, patients kept apart; OUT/index.html is one page to read and to send on,
    OUT/scores.json and scores.csv have every number, OUT/table.tex is the table for a paper. Without
    --pipeline, the run's own recipe holds.

    `usjepa-evaluate compare A.json B.json` says which differences between two reports are real.
    """
    from pathlib import Path

    from usjepa.evaluate.encoders.finished_run import open_run
    from usjepa.evaluate.run import evaluate

    open_run(Path(run))  # a run that is not finished is the first thing to hear of, before its recipe
    document = evaluate(run, tasks, out, _recipe(run, pipeline, recipes, overrides), device, encoders, segmentations)
    click.echo(table(document))
    for line in segmentation_lines(document):
        click.echo(line)
    click.echo(f"\nreport: {out.rstrip('/')}/index.html    every number: {out.rstrip('/')}/scores.json")
    click.echo(f"for a paper: {out.rstrip('/')}/table.tex")


@click.command("compare", context_settings=_HELP)
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@click.option(
    "--classifier", type=click.Choice(["probe", "attentive", "logistic", "knn"]), default="probe", show_default=True
)
@click.option("--measure", type=click.Choice(["macro_f1", "balanced_accuracy"]), default="macro_f1", show_default=True)
@click.option("--draws", type=click.IntRange(100), default=10_000, show_default=True, help="Draws of the test groups.")
@click.option(
    "--encoders",
    nargs=2,
    default=None,
    metavar="A B",
    help="Compare this encoder of the first report with that of the second, which may be the same file; default: each "
    "encoder with its namesake. Names as in scores.json: student, teacher, random, pixels, hog.",
)
@click.option("--json", "out", default=None, type=click.Path(dir_okay=False), help="Write the comparison here as well.")
@ends_well
def compare(
    first: str,
    second: str,
    classifier: str,
    measure: str,
    draws: int,
    encoders: tuple[str, str] | None,
    out: str | None,
) -> None:
    """Say which differences between two reports, or between two encoders, are real.

    FIRST and SECOND are scores.json files, or the folders that hold them. Test patients are drawn again with
    replacement, the same for both; p-values are corrected for the number of comparisons (Holm).
    """
    import json
    from pathlib import Path

    from usjepa.cache.storage.durable import write_durably
    from usjepa.evaluate.compare import as_text
    from usjepa.evaluate.compare import compare as compared

    found = compared(Path(first), Path(second), classifier, measure, draws, encoders)
    click.echo(as_text(found))
    if out is not None:
        write_durably(Path(out), (json.dumps(found.told(), indent=1) + "\n").encode())


def _recipe(run: str, pipeline: str | None, recipes: str | None, overrides: tuple[str, ...]) -> Recipe:
    """Return the named recipe, or the run's own with the overrides on it."""
    from pathlib import Path

    from usjepa.cache.errors import UsageError
    from usjepa.cache.recipes.recipe import load_recipe, override_recipe
    from usjepa.evaluate.encoders.finished_run import run_recipe

    if pipeline is not None:
        return load_recipe(pipeline, overrides, recipes)
    if recipes is not None:
        raise UsageError("--recipes says where recipes are; say which one with --pipeline NAME.")
    return override_recipe(run_recipe(Path(run)), overrides)


def segmentation_lines(document: Any) -> list[str]:
    """Return a line of text per encoder and segmentation task: mean Dice in percent."""
    from usjepa.evaluate.report.markup import percent

    lines = []
    for scored in document["segmentation"]["scores"]:
        dice = scored["dice"]
        classes = ", ".join(f"{name} {percent(one['mean'])}" for name, one in scored["classes"].items())
        title = document["encoders"][scored["encoder"]]["title"]
        told = f"Dice, %: {scored['task']}: {title}: {percent(dice['mean'])} ± {percent(dice['sd'])} ({classes})"
        lines.append(told)
    return lines


def table(document: Any) -> str:
    """Return the scores as lines of text: encoders down, tasks across, macro F1 in percent."""
    from usjepa.evaluate.report.markup import percent

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
