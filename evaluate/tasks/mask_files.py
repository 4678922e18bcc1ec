"""Read masks as people have drawn them, and refuse what can't be classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from PIL import Image, ImageOps

from usjepa.cache.errors import SourceError
from usjepa.evaluate.tasks.splits import TEST, TRAIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_MOST_CLASSES = 16
_Colours = dict[int, tuple[int, ...]]


@dataclass
class Survey:
    """What the masks of a task hold, one looked at after the other."""

    values_NV: list[NDArray[np.bool_]] = field(default_factory=list)
    """Of each mask whether it holds a value other than 0."""
    paths: list[Path] = field(default_factory=list)
    _hasher: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)
    _colours: dict[int, tuple[tuple[int, ...], Path]] = field(default_factory=dict)
    """Palette's index -> its colour, and the first mask that holds it."""

    def look(self, path: Path, size: tuple[int, int]) -> None:
        """Read a mask of an image of a height and width; SourceError where it is none of it."""
        mask, colours = _opened(path)
        _refuse_other_shape(path, mask.shape, size)
        for index, colour in colours.items():
            known, first = self._colours.setdefault(index, (colour, path))
            if known != colour:
                raise SourceError(
                    f"{path}: its palette gives index {index} the colour {colour}, that of {first} {known}: the same "
                    "index is another class. Write masks without a palette, or all with one."
                )
        self._hasher.update(np.ascontiguousarray(mask).tobytes())
        held = np.bincount(mask.ravel(), minlength=256) > 0
        held[0] = False
        self.values_NV.append(held)
        self.paths.append(path)

    def values(self, splits: NDArray[np.object_]) -> tuple[int, ...]:
        """Return the values of all masks, 0 first, given their splits; SourceError where they can't be classes."""
        held_NV = np.array(self.values_NV)
        values = (0, *np.flatnonzero(held_NV.any(axis=0)).tolist())
        if not 2 <= len(values) <= _MOST_CLASSES:
            what = "they are all background" if len(values) < 2 else "lossy files, or no masks"
            raise SourceError(
                f"{self.paths[0].parent}: its masks hold {len(values)} different values, where classes 0, 1, ... are "
                f"wanted: {what}."
            )
        if values == (0, 1, 255) and not held_NV[:, [1, 255]].all(axis=1).any():
            raise self._two_ways(held_NV, (1, 255), "in no mask both")
        train, test = (held_NV[splits == part].any(axis=0) for part in (TRAIN, TEST))
        if train.any() and test.any() and not (train & test).any():
            first, other = int(np.flatnonzero(train)[0]), int(np.flatnonzero(test)[0])
            raise self._two_ways(held_NV, (first, other), "and no value of a mask of train is in one of test")
        return values

    def content(self) -> str:
        """Return the xxh3-128 (hex) of all masks."""
        return self._hasher.hexdigest()

    def _two_ways(self, held_NV: NDArray[np.bool_], two: tuple[int, int], why: str) -> SourceError:
        named = [f"{self.paths[int(np.flatnonzero(held_NV[:, value])[0])]} holds {value}" for value in two]
        return SourceError(
            f"{' and '.join(named)}, {why}: are they the same class, written in two ways? Write it with one value."
        )


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Return a mask's values, uint8 [H, W], upright; equal colour channels count as one, as does a grey palette."""
    return _opened(path)[0]


def _opened(path: Path) -> tuple[NDArray[np.uint8], _Colours]:
    """Return a mask's values, and the colours of those that are a palette's indices."""
    colours: _Colours = {}
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            mask = np.asarray(upright.convert("L") if upright.mode == "1" else upright)
            if upright.mode == "P":
                mask, colours = _through_palette(mask, upright.getpalette("RGB") or [])
    except (OSError, ValueError, SyntaxError) as error:
        raise SourceError(f"{path}: can't be read as a mask ({error}).") from error
    if mask.ndim == 3 and (mask[..., :1] == mask[..., :3]).all():
        mask = mask[..., 0]
    if mask.ndim != 2 or mask.dtype.kind not in "ui" or (mask.size and int(mask.max()) > 255):
        raise SourceError(f"{path}: no mask of one channel and values up to 255 ({mask.dtype}, {mask.shape}).")
    return mask.astype(np.uint8), colours


def _through_palette(mask: NDArray[np.uint8], palette: Sequence[int]) -> tuple[NDArray[np.uint8], _Colours]:
    """Return the greys of a grey palette, which writers of GIF renumber; else indices, and their colours."""
    table = np.zeros((256, 3), np.uint8)
    given = np.array(palette, np.uint8).reshape(-1, 3)
    table[: len(given)] = given
    used = np.unique(mask)
    greys = table[used, 0]
    if (table == table[:, :1]).all() and len(np.unique(greys)) == len(used):
        return table[mask, 0], {}
    return mask, {int(index): tuple(table[index].tolist()) for index in used}


def _refuse_other_shape(path: Path, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Refuse a mask that would be stretched otherwise than its image; one of another size may be a pixel off."""
    (down, across), (height, width) = shape, size
    if abs(down * width - across * height) > max(size):
        raise SourceError(
            f"{path}: {down} x {across} pixels (height x width), its image {height} x {width}: not the mask of the "
            "whole image, or turned."
        )
