"""Make targets of the patches' own pixels, for training without a teacher.

This is the first stage of SALT (arXiv 2509.24317): an encoder that has learnt to reconstruct pixels under the same
multiblock masks is a good enough teacher for the second stage. The normalisation is MAE's (arXiv 2111.06377, section 3,
"reconstruction target"): each patch to mean 0 and variance 1 over its own pixels, eps 1e-6. It removes a patch's
brightness and makes the speckle of every patch, which is unpredictable, as large as its structure; `none` keeps grey
levels in [0, 1]. Averaging over cells of several pixels, our addition, removes speckle finer than a cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from usjepa.cache.identity import Json

NAME = "pixels"
_VERSION = 1
_EPSILON = 1e-6
PixelNorm = Literal["patch", "none"]
_NORM_IN_IDENTITY: dict[PixelNorm, str] = {"patch": "mean and variance of the patch", "none": "none"}


class PixelTargets:
    """Turns uint8 pixels [B, C, S, S] into targets, float32 [B, T, C * n * n], patches row-major over the grid.

    n is the number of cells along a patch's side.
    """

    def __init__(
        self, image_size: int, channels: int, grid: tuple[int, int], norm: PixelNorm = "patch", cell: int = 1
    ) -> None:
        """Raise UsageError if patches are not square, do not fill the image, or are not filled by the cells.

        Args:
            image_size: S, pixels.
            channels: C.
            grid: patches down and across.
            norm: normalisation of each patch.
            cell: side of the averaged cells, pixels.
        """
        patch = image_size // grid[0]
        if (patch * grid[0], patch * grid[1]) != (image_size, image_size):
            raise UsageError(
                f"Images of {image_size}x{image_size} pixels do not divide into {grid[0]}x{grid[1]} square patches: "
                "set train.student.patch_size."
            )
        if patch % cell:
            raise UsageError(
                f"train.pixel_cell={cell} does not divide the patch side of {patch} pixels: choose a divisor of it."
            )
        self.patch, self.grid, self.norm, self.cell = patch, grid, norm, cell
        self.dim = channels * (patch // cell) ** 2

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that changes the targets, beside the pixels."""
        described: dict[str, Json] = {
            "version": _VERSION,
            "patch": self.patch,
            "normalisation": _NORM_IN_IDENTITY[self.norm],
        }
        return {"pixels": described | ({"cell": self.cell} if self.cell > 1 else {})}

    def __call__(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the targets; if normalised, a patch of one grey level (outside the scan) becomes zeros."""
        B, C = pixels_BCSS.shape[:2]
        rows, columns = self.grid
        x = torch.nn.functional.avg_pool2d(pixels_BCSS.to(torch.float32) / 255.0, self.cell)
        side = self.patch // self.cell
        x = x.reshape(B, C, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        patches_BTD = x.reshape(B, rows * columns, self.dim)
        if self.norm == "none":
            return patches_BTD
        centred = patches_BTD - patches_BTD.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + _EPSILON).sqrt()
