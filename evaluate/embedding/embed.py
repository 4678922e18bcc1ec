"""Embed the frames of a source as one float32 vector each, in a file.

Until the file is whole, cut frames and features lie in `OUT.work` beside it, so that a killed call goes on where it
stopped; then that folder goes.
"""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

from usjepa.cache.errors import SourceError
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.teacher.device import choose_device
from usjepa.evaluate.embedding.frames import find_frames
from usjepa.evaluate.embedding.writing import check_place, write
from usjepa.evaluate.encoders.features import KeptFeatures, feature_identity
from usjepa.evaluate.encoders.named import named_encoders
from usjepa.evaluate.encoders.pooling import pooled_by

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe

logger = logging.getLogger(__name__)

_GO_ON = "What was computed so far is kept: run the same command again to go on."


def embed(encoder: str, source: str, out: Path, recipe: Recipe, device: str | None = None) -> tuple[int, int]:
    """Write the features of a source's frames, and return how many frames and numbers per frame there are.

    The features, n x F float32, are held in memory once.

    Args:
        encoder: what `--encoder` takes: a run, a checkpoint, a published teacher, a timm model.
        source: a store, or what `usjepa-cache build --source` takes.
        out: a .parquet, .npy, .csv or .zarr; a file that is there is replaced, a .zarr is not.
        recipe: its `cache` section cuts frames, its `evaluate` section says how tokens are pooled.
        device: torch device; None: a GPU where there is one.

    Raises:
        UsageError: no such encoder, source or kind of file, or something else lies at `out`.
        SourceError: the source has no frames, or a file can't be read.
        Interrupted: SIGINT or SIGTERM; the same call goes on.
        WriteError: the disk is full or refuses.
    """
    check_place(out)
    work = out.with_name(f"{out.name}.work")
    named = named_encoders((encoder,), recipe, str(choose_device(device)))[0]
    frames = find_frames(source, work, recipe)
    if not len(frames):
        raise SourceError(f"{source}: holds no whole frames (view 0), so there is nothing to embed.")
    made = pooled_by(named.encoder, recipe.evaluate.pooling)
    with graceful_interrupts(_GO_ON):
        features_NF = KeptFeatures(work, recipe.evaluate.encode_batch_size).features(made, frames)
    logger.info(f"{named.title}: {made.pooling}; input: {made.given}")
    write(out, features_NF, frames.columns(), feature_identity(made, frames))
    shutil.rmtree(work)
    return features_NF.shape[0], features_NF.shape[1]
