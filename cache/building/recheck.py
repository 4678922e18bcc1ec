"""Check that other library versions or another device still give the stored numbers.

Soft identity (versions, device, kernels) may differ without harm, but a store must not be half one thing and half
another. So a few stored rows are computed again and compared within a tolerance that fits the precision.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.building.committed_rows import read_committed
from usjepa.cache.errors import BlankError, IdentityError, WholeFrameError
from usjepa.cache.frames.layers import pixel_soft
from usjepa.cache.sources.files.stamps import name_of, stamp_of
from usjepa.cache.store.origins.segment_tables import sources_in_batches
from usjepa.cache.store.precision import dequantise, quantise
from usjepa.cache.teacher.computing import compute_latents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from usjepa.cache.building.shard_maker import ShardMaker
    from usjepa.cache.decoding.cutters import Cutters
    from usjepa.cache.store.commits import Commit, Commits
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.writer import StoreWriter
    from usjepa.cache.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

_RECHECKED_ROWS = 8
_PIXEL_TOLERANCE = 2
"""Largest difference of a pixel, grey levels of 255: decoders and resizers round differently between versions."""
_LATENT_TOLERANCE = {"fp32": 5e-3, "fp16": 2e-2, "bf16": 5e-2, "fp16-pure": 3e-2, "bf16-pure": 1e-1}
"""Largest relative error (Frobenius norm of the difference over that of the centred latents), by compute precision."""
_ROUNDING_TOLERANCE = {"int8": 3e-2, "uint8": 0.15}
"""By stored type: where a teacher's numbers differ in their last bits, some values of int4 land on the next level."""


def _sample_rows(writer: StoreWriter, commits: Mapping[int, Commit], count: int) -> list[int]:
    """Return up to `count` committed rows, evenly spaced, holes left out."""
    holes = {row for commit in commits.values() for row, _ in commit.holes}
    rows = [row for shard in sorted(commits) for row in writer.state.rows_of_shard(shard) if row not in holes]
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[i] for i in places]


def recheck(maker: ShardMaker) -> None:
    """Go on after an update of libraries or another device only if it gives the stored numbers again."""
    pixel_commits = maker.commits["pixels"]
    if any(c.soft != pixel_soft() for c in pixel_commits.values()) and maker.cutters is not None:
        recheck_pixels(maker.writer, pixel_commits, maker.cutters)
    for teacher in maker.job.teachers if maker.job is not None else ():
        commits = maker.commits[f"latents/{teacher.name}"]
        if maker.job is not None and any(c.soft != maker.job.soft for c in commits.values()):
            logger.info(recheck_latents(maker.writer, maker.commits, teacher))


def refuse_other_readers(writer: StoreWriter, commits: Mapping[int, Commit]) -> None:
    """Refuse to go on with a segment that another version of a reader scanned; say so where it is finished.

    Raises:
        IdentityError: shards are missing, and this version might count or decode the frames of their files otherwise.
    """
    for segment in writer.state.segments:
        others: set[str] = set()
        for stamps, errors in sources_in_batches(writer.storage, segment, "reader", "error"):
            readable = {stamp for stamp, error in zip(stamps, errors, strict=True) if not error}
            others |= {stamp for stamp in readable if stamp != stamp_of(name_of(stamp))}
        if not others:
            continue
        named = ", ".join(f"{stamp} (here {stamp_of(name_of(stamp))})" for stamp in sorted(others))
        if any(shard not in commits for shard in segment.shards(writer.state.rows_per_shard)):
            raise IdentityError(
                f"{writer.storage.url}: segment {segment.number} was scanned by other versions of readers: {named}. "
                "They may count or decode frames differently, and its pixels are not all built. Finish it with the "
                "version of usjepa that began it, or build anew."
            )
        logger.warning(
            f"segment {segment.number} was scanned by other versions of readers: {named}. Its rows stay as they are; "
            "new files are read by the readers here."
        )


def recheck_pixels(writer: StoreWriter, commits: Mapping[int, Commit], cutters: Cutters) -> None:
    """Cut a few stored rows again from their sources; raises IdentityError when they came out differently."""
    rows = _sample_rows(writer, commits, _RECHECKED_ROWS)
    stored = read_committed(writer.storage, writer.state.layers["pixels"], commits, rows)
    for place, row in enumerate(rows):
        segment = next(s for s in writer.state.segments if s.first_row <= row < s.first_row + s.rows)
        try:
            made = cutters.cut(segment.number, range(row, row + 1), False)
        except (BlankError, WholeFrameError):
            continue  # kept then, and stopped at now: as those that are left out now, it shows nothing here
        if made.holes:
            continue
        again = made.pixels[0]
        worst = int(np.abs(again.astype(int) - stored[place]).max())
        if worst > _PIXEL_TOLERANCE:
            raise IdentityError(
                f"{writer.storage.url}: row {row} cut again differs from the stored one by {worst} grey levels: the "
                "decoding or imaging libraries changed its numbers. Install the versions that `status` shows, or "
                "build anew."
            )
    logger.info(
        f"library versions differ from those of stored shards: {len(rows)} rows of pixels made again, equal within "
        f"{_PIXEL_TOLERANCE} grey levels"
    )


def recheck_latents(writer: StoreWriter, commits: Commits, teacher: Teacher) -> str:
    """Recompute a few stored rows of latents and return how closely they agree, for the log.

    Args:
        writer: of the store.
        commits: layer name -> finished shards, of pixels and of the teacher's layers.
        teacher: whose latents.

    Raises:
        IdentityError: they differ beyond tolerance.
    """
    layers, storage = writer.state.layers, writer.storage
    layer = layers[f"latents/{teacher.name}"]
    rows = _sample_rows(writer, commits[layer.name], _RECHECKED_ROWS)
    images = read_committed(storage, layers["pixels"], commits["pixels"], rows)
    stored = read_committed(storage, layer, commits[layer.name], rows)
    scales = None
    if layer.channel_scale:
        name = f"scales/{teacher.name}"
        scales = read_committed(storage, layers[name], commits[name], rows)
    again = compute_latents(teacher, images, np.asarray(rows), len(rows))
    error = relative_error(as_kept(layer, again), as_float(layer, stored, scales))
    tolerance = tolerance_of(teacher, layer)
    if error > tolerance:
        raise IdentityError(
            f"{writer.storage.url}: {len(rows)} stored rows of {layer.name} computed again differ by {error:.2g} "
            f"(tolerance {tolerance:g}): libraries or device changed the teacher's numbers. "
            "Use those that `status` shows, or another name."
        )
    return (
        f"versions or device differ from those of stored shards: {len(rows)} rows of {layer.name} computed again, "
        f"relative error {error:.1e} (tolerance {tolerance:g})"
    )


def as_float(layer: Layer, stored: NDArray[Any], scales: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return stored latents as float32 [R, T, D]; int8 and int4 need their scales [R, T]."""
    return dequantise(stored, scales, layer.channel_scale, layer.coding)


def as_kept(layer: Layer, latents_RTD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return latents as a layer with a coding gives them back: what it leaves out is no difference between versions."""
    return latents_RTD if layer.coding is None else as_float(layer, *quantise(latents_RTD, layer, 0))


def relative_error(again_RTD: NDArray[np.float32], stored_RTD: NDArray[np.float32]) -> float:
    """Return the Frobenius norm of the difference over that of the centred latents.

    Centred per channel: a few channels with large means would hide any difference otherwise.
    """
    centred = again_RTD - again_RTD.mean(axis=(0, 1))
    return float(np.linalg.norm(again_RTD - stored_RTD) / max(float(np.linalg.norm(centred)), 1e-12))


def tolerance_of(teacher: Teacher, layer: Layer) -> float:
    """Return the largest relative error that versions, device and stored precision explain."""
    computed = _LATENT_TOLERANCE[teacher.compute]
    return max(computed, _ROUNDING_TOLERANCE.get(layer.dtype, 0.0))
