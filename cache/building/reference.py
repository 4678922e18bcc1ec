"""Compare a teacher with tokens that its authors' own code gave for some images.

Their file holds `pixels` (uint8 [B, C, S, S], as a store keeps them) and `tokens` ([B, T, D], patch tokens row by row).
A teacher whose tokens point elsewhere is refused before anything is scanned; the file is kept in the store as evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from usjepa.cache.errors import TeacherError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.teacher.teacher import Teacher

LEAST_COSINE = 0.999
"""Of every token with its reference; rounding of bf16 stays above it, a wrong mean, head or block far below."""
_MOST_IMAGES = 4
"""Per forward pass."""


class Agreement(NamedTuple):
    """How near a teacher comes to its reference."""

    cosine: float
    """The smallest, over tokens."""
    difference: float
    """The largest, over values."""

    def __str__(self) -> str:
        return f"smallest cosine {self.cosine:.6f}, largest difference {self.difference:.2g}"


def reference_name(teacher: str) -> str:
    """Return where a store keeps the reference of a teacher."""
    return f"references/{teacher}.safetensors"


def compare_reference(teacher: Teacher, path: Path, channels: int, edge: int) -> Agreement:
    """Return how near a teacher's tokens come to those of a file.

    Args:
        teacher: the loaded teacher.
        path: a safetensors file with `pixels` and `tokens`.
        channels: C of the store's pixels.
        edge: S of them.

    Raises:
        UsageError: there is no such file, or it holds something else.
        TeacherError: a token's cosine with its reference is below `LEAST_COSINE`.
    """
    pixels, tokens = _read(path, channels, edge)
    with torch.no_grad():
        found = torch.cat([teacher(part).cpu() for part in pixels.split(_MOST_IMAGES)])
    if found.shape != tokens.shape:
        raise TeacherError(
            f"{path}: its tokens are {list(tokens.shape)}, and teacher {teacher.name} gives {list(found.shape)}. Are "
            "they patch tokens alone, row by row, of the same block?"
        )
    cosine = torch.nn.functional.cosine_similarity(found, tokens, dim=-1).min()
    agreement = Agreement(float(cosine), float((found - tokens).abs().max()))
    if not agreement.cosine >= LEAST_COSINE:  # nor NaN
        raise TeacherError(
            f"{path}: teacher {teacher.name} gives other tokens than its authors' code: {agreement} (wanted: a cosine "
            f"of {LEAST_COSINE}). Check mean and std, the input's size, heads, activation and positions (usjepa-cache "
            "teachers NAME), the block and the set of weights (cache.teacher.key)."
        )
    return agreement


def _read(path: Path, channels: int, edge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels uint8 [B, C, S, S] and tokens float32 [B, T, D]."""
    try:
        held = load_file(path)
        pixels, tokens = held["pixels"], held["tokens"].float()
    except FileNotFoundError as error:
        raise UsageError(f"--reference {path}: no such file.") from error
    except (SafetensorError, KeyError, OSError) as error:
        raise UsageError(f"--reference {path}: no safetensors file with `pixels` and `tokens` ({error}).") from error
    wanted = [len(pixels), channels, edge, edge]
    if list(pixels.shape) != wanted or pixels.dtype != torch.uint8 or tokens.ndim != 3 or len(tokens) != len(pixels):
        raise UsageError(
            f"--reference {path}: pixels {list(pixels.shape)} {pixels.dtype} and tokens {list(tokens.shape)}; wanted "
            f"are pixels [B, {channels}, {edge}, {edge}] uint8, as the store keeps them, and tokens [B, T, D]."
        )
    return pixels, tokens
