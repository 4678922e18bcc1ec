"""Join student and projector: an image becomes one point on a sphere.

The projector (SimCLR, arXiv 2002.05709) is thrown away: it takes on what the loss wants to forget. It has layer norms
where SimCLR's has batch norms, so that an image's point does not depend on the others of its batch, nor on the ranks
that share it.

Shape suffixes: n images, C channels, S edge of stored pixels, D width of the student, P width of a point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from usjepa.train.model.initial import seeded
from usjepa.train.model.student import Student

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import TrainSettings

_PART = 2
"""Names the draw of the projector's weights; the student's is 0, the predictor's 1."""


class Contrast(nn.Module):
    """Student and projector: everything that is trained."""

    def __init__(self, settings: TrainSettings, image_size: int) -> None:
        """Draw the weights from `settings.seed`; UsageError if the student can't be built for such images."""
        super().__init__()
        self.student = Student(settings.student, image_size, settings.seed, settings.recompute)
        width, hidden, dim = self.student.dim, settings.contrast.hidden, settings.contrast.dim
        with seeded(settings.seed, _PART):
            self.projector = nn.Sequential(
                nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, dim)
            )

    def forward(self, pixels_nCSS: torch.Tensor) -> torch.Tensor:
        """Return the points of images in [0, 1], float32 [n, P] of length 1.

        An image is the mean of its patch tokens, as probes read it. An empty batch gives a scalar 0 that depends on
        every parameter, because other ranks wait for its gradients.
        """
        if not len(pixels_nCSS):
            return 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        tokens = self.student.encode(pixels_nCSS)[:, self.student.prefix :]
        return functional.normalize(self.projector(tokens.mean(dim=1)).float(), dim=-1)
