"""Run `usjepa-train`; heavy modules are imported only inside it, so that --help answers at once."""

from __future__ import annotations

import click

from usjepa.cache.command_line import Command, ends_well, recipe_options
from usjepa.cache.errors import UsageError


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("store")
@click.argument("run", type=click.Path(file_okay=False))
@click.option("--device", default=None, help="cpu, cuda or cuda:N. Default: a GPU if there is one.")
@click.option("--stop-after-steps", type=click.IntRange(min=1), default=None, help="Save and stop after so many steps.")
@recipe_options
@ends_well
def main(
    store: str,
    run: str,
    device: str | None,
    stop_after_steps: int | None,
    pipeline: str | None,
    recipes: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Stage two: train an encoder on STORE into the folder RUN. The same command again resumes where it stopped.

    The folder then holds the encoder (encoder.safetensors and config.json, which plain timm loads), log.jsonl,
    curve.png and the checkpoints.
    """
    from pathlib import Path

    from usjepa.cache.recipes.recipe import load_recipe, recipe_names

    if pipeline is None:
        raise UsageError(f"usjepa-train needs --pipeline NAME, one of: {', '.join(recipe_names(recipes))}.")
    recipe = load_recipe(pipeline, overrides, recipes)
    from usjepa.cache.teacher.exported import WEIGHTS
    from usjepa.train.record.folder import CURVE, RunFolder
    from usjepa.train.run.loop import train

    train(store, run, recipe, device, stop_after_steps)
    folder = Path(run)
    if not RunFolder(folder).exported:
        return  # stopped as requested, which train has reported
    click.echo(f"encoder: {folder / WEIGHTS} (and config.json); losses: {folder / CURVE}")
    click.echo(f"next: usjepa-evaluate {run} --task STORE -o report/")
