"""Compare a teacher with tokens that its authors' own code gave for some images.

Their file holds `pixels` (uint8 [B, C, S, S], as a store keeps them) and `tokens` ([B, T, D], patch tokens row by row);
of several blocks of one model, `tokens.4`, `tokens.8` and so on, some of them or all.

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

    from usjepa.cache.teacher.teacher import Pass, Teacher

LEAST_COSINE = 0.999
"""Of every token with its reference; rounding of bf16 stays above it, a wrong mean, head or block far below."""
_MOST_LONGER = 0.05
"""Part of its reference's length by which a token may be longer or shorter: a cosine is blind to a scale."""
_MOST_IMAGES = 4
"""Per forward pass."""


class Agreement(NamedTuple):
    """How near a teacher comes to its reference."""

    cosine: float
    """The smallest, over tokens."""
    difference: float
    """The largest, over values."""
    longer: float
    """The largest part of a reference's length by which a token is longer or shorter, over tokens."""

    @property
    def good(self) -> bool:
        """Whether the tokens are those of the reference, but for rounding; NaN is not."""
        return self.cosine >= LEAST_COSINE and self.longer <= _MOST_LONGER

    def __str__(self) -> str:
        return f"smallest cosine {self.cosine:.6f}, largest difference {self.difference:.2g}"


def reference_name(teacher: str) -> str:
    """Return where a store keeps the reference of a teacher."""
    return f"references/{teacher}.safetensors"


def compare_reference(run: Pass, path: Path, channels: int, edge: int) -> dict[str, Agreement]:
    """Return how near the tokens of each teacher that a file speaks of come to those of the file.

    Args:
        run: the loaded teacher, or several of one pass.
        path: a safetensors file with `pixels` and `tokens`.
        channels: C of the store's pixels.
        edge: S of them.

    Raises:
        UsageError: there is no such file, or it holds something else.
        TeacherError: a token's cosine with its reference is below `LEAST_COSINE`, or its length another.
    """
    names = ["tokens" + "".join(teacher.name.partition(".")[1:]) for teacher in run.teachers]
    pixels, held = _read(path, names, channels, edge)
    return {
        teacher.name: _compared(teacher, path, pixels, held[name])
        for teacher, name in zip(run.teachers, names, strict=True)
        if name in held
    }


def _compared(teacher: Teacher, path: Path, pixels: torch.Tensor, tokens: torch.Tensor) -> Agreement:
    with torch.no_grad():
        found = torch.cat([teacher(part).cpu() for part in pixels.split(_MOST_IMAGES)])
    if found.shape != tokens.shape:
        raise TeacherError(
            f"{path}: its tokens are {list(tokens.shape)}, and teacher {teacher.name} gives {list(found.shape)}. Are "
            "they patch tokens alone, row by row, of the same block?"
        )
    cosine = torch.nn.functional.cosine_similarity(found, tokens, dim=-1).min()
    longer = (found.norm(dim=-1) / tokens.norm(dim=-1) - 1).abs().max()
    agreement = Agreement(float(cosine), float((found - tokens).abs().max()), float(longer))
    if not agreement.good:
        raise TeacherError(
            f"{path}: teacher {teacher.name} gives other tokens than its authors' code: {agreement}, lengths apart by "
            f"{agreement.longer:.0%} (wanted: a cosine of {LEAST_COSINE}, lengths within {_MOST_LONGER:.0%}). Check "
            "mean and std, the input's size, heads, activation and positions (usjepa-cache teachers NAME), the block "
            "and the set of weights (cache.teacher.key)."
        )
    return agreement


def _read(path: Path, names: list[str], channels: int, edge: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return pixels uint8 [B, C, S, S], and those of some names that the file holds: tokens float32 [B, T, D]."""
    try:
        held = load_file(path)
        pixels, found = held["pixels"], {name: held[name] for name in names if name in held}
    except FileNotFoundError as error:
        raise UsageError(f"--reference {path}: no such file.") from error
    except (SafetensorError, KeyError, OSError) as error:
        raise UsageError(f"--reference {path}: no safetensors file with `pixels` and `tokens` ({error}).") from error
    if not found:
        raise UsageError(f"--reference {path}: holds {', '.join(held)}, and none of {', '.join(names)}.")
    wanted = [len(pixels), channels, edge, edge]
    for name, tokens in found.items():
        fits = tokens.ndim == 3 and len(tokens) == len(pixels) > 0 and tokens.is_floating_point()
        if list(pixels.shape) != wanted or pixels.dtype != torch.uint8 or not fits:
            raise UsageError(
                f"--reference {path}: pixels {list(pixels.shape)} {pixels.dtype} and {name} {list(tokens.shape)} "
                f"{tokens.dtype}; wanted are pixels [B, {channels}, {edge}, {edge}] uint8, as a store keeps them, and "
                "tokens [B, T, D] of a float type, of one image or more."
            )
    return pixels, {name: tokens.float() for name, tokens in found.items()}
