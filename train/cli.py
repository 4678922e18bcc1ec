"""The `usjepa-train` command. Everything heavy is imported within it, so that --help answers at once."""

from __future__ import annotations

import click

from usjepa.cache.command_line import ends_well, recipe_options
from usjepa.cache.errors import UsageError


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("store")
@click.argument("run", type=click.Path(file_okay=False))
@click.option("--device", default=None, help="cpu, cuda or cuda:N. Default: a GPU when there is one.")
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
    """Stage two: train an encoder on STORE into the folder RUN. Run it again: it goes on where it stopped.

    The folder then holds the encoder (encoder.safetensors and config.json, which plain timm loads), log.jsonl,
    curve.png and the checkpoints.
    """
    from usjepa.cache.recipes.recipe import load_recipe, recipe_names

    if pipeline is None:
        raise UsageError(f"train needs --pipeline NAME, one of: {', '.join(recipe_names(recipes))}.")
    recipe = load_recipe(pipeline, overrides, recipes)
    from pathlib import Path

    from usjepa.train.run.loop import train

    train(store, run, recipe, device, stop_after_steps)
    if not (Path(run) / "config.json").exists():
        return  # stopped on the way, as asked; train has said so
    click.echo(f"encoder: {Path(run) / 'encoder.safetensors'} (and config.json); losses: {Path(run) / 'curve.png'}")
    click.echo(f"next: usjepa-evaluate {run} --task STORE -o report/")
