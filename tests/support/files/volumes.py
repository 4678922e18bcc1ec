"""Volumes as scanners and labs write them, and CAMUS in both of its forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SPACING = (0.154, 0.308, 1.54)
"""Millimetres across, down and between frames; CAMUS has such."""


def echo(count: int = 3, height: int = 48, width: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Return [N, H, W]: a sector that is narrow at the top, so that a turned frame is not the same."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width]
    inside = abs(across - width / 2) < 2 + down * width / (2.2 * height)
    return (rng.integers(40, 255, (count, height, width)) * inside).astype(np.uint8)


def write_volume(path: Path, frames: NDArray[Any], vector: bool = False, compressed: bool = False) -> Path:
    """Write frames [N, H, W] (or [H, W], or with colours last) through SimpleITK, in the format of the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(frames, isVector=vector)
    image.SetSpacing(SPACING[: image.GetDimension()])
    SimpleITK.WriteImage(image, str(path), useCompression=compressed or path.name.endswith(".gz"))
    return path


def write_camus(root: Path, patient: str, ending: str, view: str = "2CH", seed: int = 0) -> None:
    """Write a patient of CAMUS: end of diastole, of systole, the sequence, and the masks of each."""
    sequence = "half_sequence" if ending == ".nii.gz" else "sequence"
    clip = echo(5, seed=seed)
    labels = (clip > 0).astype(np.uint8) * 3
    for kind, frames in (("ED", clip[0]), ("ES", clip[-1]), (sequence, clip)):
        # The older release has stills of one slice, [1, H, W].
        as_stored = frames[None] if ending == ".mhd" and frames.ndim == 2 else frames
        write_volume(root / patient / f"{patient}_{view}_{kind}{ending}", as_stored)
        mask = labels if frames.ndim == 3 else labels[0]
        write_volume(root / patient / f"{patient}_{view}_{kind}_gt{ending}", mask)
    (root / patient / f"Info_{view}.cfg").write_text("ED: 1\nES: 5\nNbFrame: 5\nSex: F\nAge: 56\n")
