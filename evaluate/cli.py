"""Run the commands `usjepa-evaluate`, `usjepa-evaluate compare` and `usjepa-evaluate embed`.

Heavy modules are imported in a command's body, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from usjepa.cache.command_line import Command, CommandBeside, ends_well, recipe_options, version_option

if TYPE_CHECKING:
    from usjepa.cache.recipes.recipe import Recipe


_HELP = {"help_option_names": ["-h", "--help"]}


@click.command("usjepa-evaluate", cls=CommandBeside, context_settings=_HELP)
@click.argument("run", type=click.Path())
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="[LAYOUT=]PATH[::DATASET]",
    help="Labelled frames to score on: a store, UltraBench, BUS-BRA or TN5000 as published, a folder per class, or a "
    "manifest CSV. Repeatable.",
)
@click.option(
    "--train-task",
    "train_tasks",
    multiple=True,
    metavar="[LAYOUT=]PATH[::DATASET]",
    help="Train probes on these labelled frames, and test them on those of --test-task. Repeatable, in pairs.",
)
@click.option(
    "--test-task",
    "test_tasks",
    multiple=True,
    metavar="[LAYOUT=]PATH[::DATASET]",
    help="Test on these labelled frames, with the same labels as the --train-task of the same place in the line.",
)
@click.option(
    "--regress",
    "regressions",
    multiple=True,
    metavar="[LAYOUT=]PATH[::DATASET][#COLUMN]",
    help="Frames with a number each to predict, as an ejection fraction: a manifest CSV (column `label`, or COLUMN), "
    "EchoNet as published (EF), or a store whose labels are numbers. Repeatable.",
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
    metavar="RUN|PRESET=FILE|FILE[@ARCHITECTURE]|NAME",
    help="Score this encoder too: another run, a published teacher (usjepa-cache teachers), a checkpoint, a folder of "
    "transformers or timm, hf-hub:ORG/NAME, or a timm model (NAME: random weights; NAME.TAG: pretrained). Repeatable.",
)
@click.option("-o", "--out", default="report", show_default=True, type=click.Path(), help="Folder of the report.")
@click.option(
    "--keep",
    default=None,
    type=click.Path(file_okay=False),
    help="Folder of features and cut frames, for several reports to share; default: that of the report.",
)
@version_option
@recipe_options
@click.option("--device", default=None, help="Torch device of the encoders, e.g. cuda:0; default: a GPU if any.")
@ends_well
def main(
    run: str,
    tasks: tuple[str, ...],
    train_tasks: tuple[str, ...],
    test_tasks: tuple[str, ...],
    regressions: tuple[str, ...],
    segmentations: tuple[str, ...],
    encoders: tuple[str, ...],
    out: str,
    keep: str | None,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
    device: str | None,
) -> None:
    """Score the encoder of RUN beside its teacher and plain baselines, and write a report.

    Linear probes and k-NN on frozen features, ridge regression for numbers; OUT/index.html is one page to read and to
    send on, OUT/scores.json and scores.csv have every number, OUT/table.tex is the table for a paper. Without
    --pipeline, the run's own recipe holds.

    `usjepa-evaluate compare A.json B.json` tests which differences between two reports are real;
    `usjepa-evaluate embed ENCODER SOURCE -o FILE` writes features for other tools.
    """
    from pathlib import Path

    from usjepa.cache.errors import UsageError
    from usjepa.evaluate.encoders.finished_run import open_run
    from usjepa.evaluate.report.text import scores_text
    from usjepa.evaluate.run import evaluate

    if len(train_tasks) != len(test_tasks):
        raise UsageError(
            f"--train-task is given {len(train_tasks)} times and --test-task {len(test_tasks)} times: each needs the "
            "other."
        )
    open_run(Path(run))  # a run that is not finished is refused first, before its recipe is read
    document = evaluate(
        run,
        tasks,
        out,
        _recipe(run, pipeline, recipes, overrides),
        device=device,
        encoders=encoders,
        segmentations=segmentations,
        regressions=regressions,
        crossed=tuple(zip(train_tasks, test_tasks, strict=True)),
        keep=keep,
    )
    for line in scores_text(document):
        click.echo(line)
    click.echo(f"\nreport: {out.rstrip('/')}/index.html    every number: {out.rstrip('/')}/scores.json")
    click.echo(f"for a paper: {out.rstrip('/')}/table.tex")


@main.beside
@click.command("compare", cls=Command, context_settings=_HELP)
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@click.option(
    "--classifier",
    default=None,
    metavar="PROBE",
    help="Compare by this probe: probe, attentive, logistic, logistic-fixed, knn, ridge, segmentation, or another that "
    "both reports hold; default: probe for classes, ridge for numbers, segmentation for masks.",
)
@click.option(
    "--measure",
    default=None,
    metavar="MEASURE",
    help="Compare this measure of it: macro_f1 or balanced_accuracy of classes, mae, rmse, r2 or pearson of numbers, "
    "dice of masks; default: macro_f1, mae and dice.",
)
@click.option("--draws", type=click.IntRange(100), default=10_000, show_default=True, help="Draws of the test groups.")
@click.option(
    "--encoders",
    nargs=2,
    default=None,
    metavar="A B",
    help="Compare this encoder of the first report with that of the second, which may be the same file; default: each "
    "encoder with its namesake. Names as in scores.json: student, teacher, random, pixels, hog, hog-pooled.",
)
@click.option("--json", "out", default=None, type=click.Path(dir_okay=False), help="Write the comparison here as well.")
@ends_well
def compare(
    first: str,
    second: str,
    classifier: str | None,
    measure: str | None,
    draws: int,
    encoders: tuple[str, str] | None,
    out: str | None,
) -> None:
    """Test which differences between two reports, or between two encoders, are real.

    FIRST and SECOND are scores.json files, or the folders that hold them. Test patients are drawn again with
    replacement, the same for both; p-values are corrected for the number of comparisons (Holm).
    """
    import json
    from pathlib import Path

    from usjepa.cache.storage.durable import check_output, write_durably
    from usjepa.evaluate.comparing.compare import compare as compared
    from usjepa.evaluate.comparing.comparison import Question

    if out is not None:
        check_output(Path(out))

    found = compared(Path(first), Path(second), Question(classifier, measure, draws, encoders))
    click.echo(found.as_text())
    if out is not None:
        write_durably(Path(out), (json.dumps(found.to_json(), indent=1) + "\n").encode())


@main.beside
@click.command("embed", cls=Command, context_settings=_HELP)
@click.argument("encoder", metavar="RUN|PRESET=FILE|FILE[@ARCHITECTURE]|NAME")
@click.argument("source")
@click.option(
    "-o", "--out", required=True, type=click.Path(), metavar="FILE", help="A .parquet, .npy, .csv or .zarr to write."
)
@recipe_options
@click.option("--device", default=None, help="Torch device of the encoder, e.g. cuda:0; default: a GPU if any.")
@ends_well
def embed(
    encoder: str,
    source: str,
    out: str,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
    device: str | None,
) -> None:
    """Write the features of every frame of SOURCE to a file, with its path, dataset, group, label and split.

    SOURCE is a store, or a folder, file or manifest as `usjepa-cache build --source` takes it; labels are not needed.
    ENCODER is what --encoder takes. For a run its own recipe holds, for others give --pipeline. The same command again
    goes on where it was stopped.
    """
    from pathlib import Path

    from usjepa.cache.errors import UsageError
    from usjepa.cache.teacher.exported import is_exported
    from usjepa.evaluate.embedding.embed import embed as embedded

    if pipeline is None and not is_exported(Path(encoder)):
        raise UsageError(f"{encoder}: not a run, which has a recipe. Say how frames are prepared: --pipeline NAME.")
    count, width = embedded(encoder, source, Path(out), _recipe(encoder, pipeline, recipes, overrides), device)
    click.echo(f"{out}: {count:,} frames x {width:,} features")


def _recipe(run: str, pipeline: str | None, recipes: str | None, overrides: tuple[str, ...]) -> Recipe:
    """Return the named recipe, or the run's own with the overrides on it."""
    from pathlib import Path

    from usjepa.cache.errors import UsageError
    from usjepa.cache.recipes.recipe import load_recipe, override_recipe
    from usjepa.evaluate.encoders.finished_run import run_recipe

    if pipeline is not None:
        return load_recipe(pipeline, overrides, recipes)
    if recipes is not None:
        raise UsageError("--recipes names a file of recipes; choose one of them with --pipeline NAME.")
    return override_recipe(run_recipe(Path(run)), overrides)
