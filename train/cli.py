"""Run the commands `usjepa-train` and `usjepa-train push`.

Heavy modules are imported in a command's body, so that `--help` answers at once.
"""

from __future__ import annotations

import click

from usjepa.cache.command_line import Command, CommandBeside, ends_well, recipe_options, version_option
from usjepa.cache.errors import UsageError

_HELP = {"help_option_names": ["-h", "--help"]}


@click.command(
    "usjepa-train",
    cls=CommandBeside,
    context_settings={**_HELP, "max_content_width": 100},
)
@click.argument("stores", metavar="STORE...", nargs=-1, required=True)
@click.argument("run", type=click.Path(file_okay=False))
@click.option("--device", default=None, help="cpu, cuda or cuda:N. Default: a GPU if there is one.")
@click.option("--stop-after-steps", type=click.IntRange(min=1), default=None, help="Save and stop after so many steps.")
@version_option
@recipe_options
@ends_well
def main(
    stores: tuple[str, ...],
    run: str,
    device: str | None,
    stop_after_steps: int | None,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Stage two: train an encoder on STORE into the folder RUN. The same command again resumes where it stopped.

    Several stores are trained on as if they were one, rows, datasets and groups of all; RUN comes last.

    The folder then holds the encoder (model.safetensors and config.json, which plain timm loads), log.jsonl,
    curve.png and the checkpoints. While it trains, RUN/index.html shows a browser how it stands.

    `usjepa-train push RUN ORG/NAME` puts a finished encoder on the Hugging Face hub.
    """
    from pathlib import Path

    from usjepa.cache.recipes.recipe import load_recipe, recipe_names

    if pipeline is None:
        raise UsageError(f"usjepa-train needs --pipeline NAME, one of: {', '.join(recipe_names(recipes))}.")
    recipe = load_recipe(pipeline, overrides, recipes)
    from usjepa.cache.teacher.exported import WEIGHTS
    from usjepa.train.record.folder import CURVE, RunFolder
    from usjepa.train.run.loop import train

    train(stores, run, recipe, device, stop_after_steps)
    folder = Path(run)
    if not RunFolder(folder).exported:
        return  # stopped as requested, which train has reported
    click.echo(f"encoder: {folder / WEIGHTS} (and config.json); losses: {folder / CURVE}")
    click.echo(f"next: usjepa-evaluate {run} --task STORE -o report/")


@main.beside
@click.command("push", cls=Command, context_settings=_HELP)
@click.argument("run", type=click.Path(file_okay=False))
@click.argument("repository", metavar="ORG/NAME")
@click.option("--license", "licence", required=True, metavar="NAME", help="As the hub writes it, e.g. cc-by-nc-4.0.")
@click.option("--base-model", "base_models", multiple=True, metavar="ORG/NAME", help="The teacher's. Repeatable.")
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="What it learnt from. Repeatable.")
@click.option("--private", is_flag=True, help="Make the repository, if it is new, a private one.")
@click.option(
    "--dry-run",
    "folder",
    default=None,
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Write what would be uploaded to a new folder instead.",
)
@ends_well
def push(
    run: str,
    repository: str,
    licence: str,
    base_models: tuple[str, ...],
    datasets: tuple[str, ...],
    private: bool,
    folder: str | None,
) -> None:
    """Put the encoder of the finished RUN on the Hugging Face hub, as timm and transformers load it.

    Uploaded are the weights, their configuration, the recipe, the loss curve and the model card; the log and the
    checkpoints stay here. The licence of the teacher and of the frames may bind you: see the card.
    """
    from pathlib import Path

    from usjepa.train.record import publishing
    from usjepa.train.record.front_matter import FrontMatter

    metadata = FrontMatter(licence, base_models, datasets)
    publishing.check_names(repository, metadata)
    if folder is None:
        click.echo(f"pushed: {publishing.push(Path(run), repository, metadata, private)}")
        return
    for path in publishing.write_folder(Path(run), Path(folder), metadata):
        click.echo(f"{path.stat().st_size:>13,}  {path}")
    click.echo(f"not uploaded: {repository}. Push it: the same command without --dry-run.")
